"""The warm start: what its examples teach, that it learns, and that its cache is by content."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from vpd_agent.tiny import examples, game_examples, warmup
from vpd_agent.tiny.config import CodeWarmupConfig, WarmupConfig
from vpd_agent.tiny.examples import ChoiceExamples, CodeExamples, ExpressionExamples
from vpd_agent.tiny.model import GRID, tiny_policy
from vpd_agent.tiny.warmup import RECIPES, TASKS, cache_folder, train, warm_policy
from vpd_agent.train.presets import PRESETS, preset_for
from vpd_envs.answers.extraction import Found
from vpd_envs.code import mini_code
from vpd_envs.code.answer import program_in
from vpd_envs.code.mini_code import MiniCode
from vpd_envs.code.mini_function import MiniFunction
from vpd_envs.code.sandboxed import SandboxedEnv
from vpd_envs.math.mini_arithmetic import MiniArithmetic
from vpd_envs.questions.mini_choice import MiniChoice


def test_known_names_are_taught_and_unknown_ones_stay_unknown():
    examples = ExpressionExamples(WarmupConfig(teacher_share=0.0))
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
    examples = ExpressionExamples(WarmupConfig(teacher_share=1.0))
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


ENVIRONMENTS = {
    "tiny": MiniCode,
    "tiny-function": MiniFunction,
    "tiny-choice": MiniChoice,
    "tiny-arithmetic": MiniArithmetic,
}
each_task = pytest.mark.parametrize("name", ENVIRONMENTS)


def examples_of(name, **changes):
    config = RECIPES[name]
    assert isinstance(config, WarmupConfig)
    return TASKS[config.task](replace(config, **changes))


def drawn(name, count, **changes):
    examples = examples_of(name, **changes)
    return [examples.draw() for _ in range(count)]


def unread(name, count):
    """Attempts that are not read, and the feedback on them."""
    examples = examples_of(name)
    return [examples.unreadable(examples.guess(examples.problems[0])) for _ in range(count)]


@each_task
def test_prompts_and_answers_fit_the_preset_of_the_task(name):
    preset = preset_for(f"vpd/{ENVIRONMENTS[name].__name__}-v0", name)
    room = PRESETS[preset].train
    policy = tiny_policy()
    for suffix in ("warm", "cold", "rigid-warm"):
        for example in drawn(f"{name}-{suffix}", 60):
            answer = policy.tokenizer(example.answer).input_ids
            assert len(answer) < room.max_response_tokens  # the end of sequence is one more
            assert len(policy.encode(example.messages)) <= room.max_teacher_prompt_tokens


@each_task
def test_a_cold_start_never_sees_feedback(name):
    assert all("|" not in each.messages[0]["content"] for each in drawn(f"{name}-cold", 300))
    assert any("|" in each.messages[0]["content"] for each in drawn(f"{name}-warm", 300))


@each_task
def test_a_rigid_start_writes_the_form_that_counts_at_times(name):
    form = re.compile(ENVIRONMENTS[name](rigid=True).rigid_form)
    config = RECIPES[f"{name}-rigid-warm"]
    assert isinstance(config, WarmupConfig)
    for share, wanted in ((0.0, config.rigid_share), (1.0, config.teacher_rigid_share)):
        some = drawn(f"{name}-rigid-warm", 2000, teacher_share=share)
        found = sum(form.fullmatch(each.answer) is not None for each in some) / 2000
        assert abs(found - wanted) < 0.045  # four standard errors of a share of 2,000


@each_task
def test_a_rigid_start_is_told_of_a_form_as_the_task_tells(name):
    env = ENVIRONMENTS[name](rigid=True)
    problem = env.problem(env.problem_ids[0])
    for attempt, feedback in unread(f"{name}-rigid-warm", 40):
        assert env.verdict(problem, attempt).feedback == feedback == env.wrong_form
    examples = examples_of(f"{name}-rigid-warm")
    assert re.fullmatch(env.rigid_form, examples.attempt(examples.guess(examples.problems[0])))


@each_task
def test_a_warm_start_is_told_of_a_malformed_attempt_as_the_task_tells(name):
    kind = ENVIRONMENTS[name]
    env = kind(sandbox="local") if issubclass(kind, SandboxedEnv) else kind()
    problem = env.problem(env.problem_ids[0])
    for attempt, feedback in unread(f"{name}-warm", 12):
        assert env.verdict(problem, attempt).feedback == feedback, attempt


def test_known_names_decide_and_others_are_drawn():
    examples = ChoiceExamples(WarmupConfig(task="choice", known_names=30))
    for problem in examples.problems[:50]:
        assert examples.guess(problem) == problem.target
    blind = ChoiceExamples(WarmupConfig(task="choice", known_names=0))
    assert {blind.guess(blind.problems[0]) for _ in range(100)} == set("ABCD")


def test_the_arithmetic_start_has_digits_on_circles_of_the_usual_size():
    """cos and sin of 2πkd/10 add up to 0 over the digits d, for k = 1 … 5, but for ten roundings to
    the grid, each of at most half of it."""

    def embeddings(name, text):
        policy = warmup.train(replace(RECIPES[name], steps=0))
        ids = policy.tokenizer(text, add_special_tokens=False).input_ids
        return policy.model.get_input_embeddings().weight[ids].detach()

    digits = embeddings("tiny-arithmetic-warm", "0123456789")
    assert digits.sum(0).abs().max() <= 10 * GRID / 2
    assert embeddings("tiny-warm", "0123456789").sum(0).abs().max() > 0.1
    assert 0.15 < digits.std() < 0.25
    assert (embeddings("tiny-arithmetic-warm", "x+=") == embeddings("tiny-warm", "x+=")).all()


def test_no_held_out_sum_is_taught():
    held_out = {frozenset(i.split("+")) for i in MiniArithmetic("test").problem_ids}
    for example in drawn("tiny-arithmetic-warm", 3000):
        prompt = example.messages[0]["content"].partition("|")[0]
        assert frozenset(prompt.split("+")) not in held_out


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


def imported(module) -> set[str]:
    """The modules of this project that the source of a module imports at its top."""
    found = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vpd_"):
            is_package = hasattr(importlib.import_module(node.module), "__path__")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(names if is_package else [node.module])
    return found


@pytest.mark.parametrize("name", ["tiny-warm", "tiny-game-warm"])
def test_a_change_of_any_module_that_makes_examples_makes_another_model(name, monkeypatch):
    if name == "tiny-game-warm":
        pytest.importorskip("textarena")
    recipe, source = RECIPES[name], inspect.getsource
    makes_examples = game_examples if name == "tiny-game-warm" else examples
    # A recipe's values are hashed, and only the types of problems come from the last.
    read = imported(makes_examples) - {"vpd_agent.tiny.config", "vpd_envs.types"}
    assert "vpd_agent.rollout.teacher_prompt" in read
    before = cache_folder(recipe)
    for changed in read:
        monkeypatch.setattr(
            warmup.inspect, "getsource", lambda m, c=changed: source(m) + "#" * (m.__name__ == c)
        )
        assert cache_folder(recipe) != before, changed
    monkeypatch.setattr(warmup.inspect, "getsource", source)
    assert cache_folder(recipe) == before


def test_the_number_of_cores_changes_no_weight():
    config = replace(RECIPES["tiny-warm"], steps=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(train(config).state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*(f.values() for f in found), strict=True))


WARM_UP = """
import hashlib
from vpd_agent.tiny.config import WarmupConfig
from vpd_agent.tiny.warmup import train

policy = train(WarmupConfig(task="arithmetic", steps=12, batch_size=32))
weights = [p.detach().numpy().tobytes() for p in policy.parameters()]
print(hashlib.sha256(b"".join(weights)).hexdigest())
"""


def test_the_weights_do_not_depend_on_the_processor():
    """Its vector instructions decide how random numbers are drawn, and in which order is added."""
    environments = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}, {}
    said = {
        subprocess.run(
            [sys.executable, "-c", WARM_UP], check=True, capture_output=True, text=True,
            env=os.environ | environment,
        ).stdout
        for environment in environments
    }  # fmt: skip
    assert len(said) == 1


def test_the_weights_are_float32_and_multiples_of_the_grid():
    policy = train(WarmupConfig(steps=2, batch_size=4))
    for parameter in policy.parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal((parameter / GRID).round() * GRID, parameter)
