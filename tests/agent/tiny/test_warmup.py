"""The warm start: what its examples teach, that it learns, and that its cache is by content."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from vpd_agent.tiny import warmup
from vpd_agent.tiny.warmup import (
    CodeExamples,
    CodeWarmupConfig,
    Examples,
    WarmupConfig,
    cache_folder,
    warm_policy,
)
from vpd_envs.answers.extraction import Found
from vpd_envs.code import mini_code
from vpd_envs.code.answer import program_in


def test_known_names_are_taught_and_unknown_ones_stay_unknown():
    examples = Examples(WarmupConfig(teacher_share=0.0))
    digits: dict[str, set[str]] = {}
    for _ in range(6000):
        example = examples.draw()
        names = example.messages[0]["content"]
        digits.setdefault(names[:2], set()).add(example.answer[2])
    known = [name for name, seen in digits.items() if len(seen) == 1]
    assert sorted(known) == sorted([*examples.table.first][:8])
    for name in known:
        assert digits[name] == {str(examples.table.first[name])}


def test_teacher_examples_have_the_shares_of_the_recipe():
    examples = Examples(WarmupConfig(teacher_share=1.0))
    kinds, heeded, wrong = Counter(), 0, 0
    n = 4000
    for _ in range(n):
        example = examples.draw()
        attempt, feedback = example.messages[0]["content"].split("|")[1].split(":")
        if feedback == mini_code.RIGHT:
            kinds["copy"] += 1
            assert example.answer == attempt
        elif feedback == "!SyntaxError":
            kinds["malformed"] += 1
        else:
            wrong += 1
            read = (int(d) for d in (example.answer[2], example.answer[4]))
            written = (int(d) for d in (attempt[2], attempt[4]))
            heeded += mini_code.feedback_for(*read, *written) == feedback
    assert abs(kinds["copy"] / n - 0.1) < 0.03
    assert abs(kinds["malformed"] / n - 0.2) < 0.03
    # 40 % of the others heed the feedback; those that ignore it may hit the target by chance.
    assert 0.36 < heeded / wrong < 0.55


def test_every_answer_of_the_code_recipe_is_a_program_in_the_asked_format():
    examples = CodeExamples(CodeWarmupConfig())
    programs = set()
    for _ in range(300):
        block = program_in(examples.draw().answer)
        assert block.found is Found.COMPLETE
        compile(block.code, "solution.py", "exec")
        programs.add(block.code)
    assert len(programs) > 20


def test_supervised_steps_lower_the_loss():
    losses = []
    config = WarmupConfig(steps=12, batch_size=16)
    warmup.train(config, on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < losses[0]


def test_the_cache_is_keyed_by_the_recipe_and_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("VPD_CACHE", str(tmp_path))
    config = WarmupConfig(steps=1, batch_size=2)
    trained = []
    first = warm_policy(config, on_step=lambda *_: trained.append(1))
    again = warm_policy(config, on_step=lambda *_: trained.append(1))
    assert len(trained) == 1
    a, b = first.model.state_dict(), again.model.state_dict()
    assert all((a[name] == b[name]).all() for name in a)
    assert cache_folder(replace(config, seed=1)) != cache_folder(config)
    assert [p.name for p in (tmp_path / "warm").iterdir()] == [cache_folder(config).name]
