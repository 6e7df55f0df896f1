"""What runs keep for `vpd inspect`: the numbers of each token, and a file that stays small."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, mixed_rollouts, small_policy
from vpd_agent.algorithms import GRPO, RLSD, SDAR, SDPG, SDPO, VPD
from vpd_agent.algorithms.base import Algorithm, Loss, Step
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.run_folder import INSPECT, RunFolder
from vpd_agent.runs.thinned_file import ThinnedFile
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.inspection import kept_rollouts, most_instructive, token_texts
from vpd_agent.train.learner import Learner
from vpd_agent.train.trainer import Trainer
from vpd_envs import Problem, Status, Verdict

CONFIG = TrainConfig(
    steps=6,
    prompts_per_step=2,
    group_size=3,
    learning_rate=1e-2,
    temperature=0.7,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=4,
    eval_every=0,
    save_every=2,
    samples_every=0,
    inspect_every=2,
)


def learner_of(algorithm: Algorithm, **changes) -> Learner:
    config = replace(CONFIG, **changes)
    return Learner(small_policy(), algorithm, SecretLetter.vector(config.rollouts_per_step), config)


def distributions(policy, prompt: list[int], response: list[int], temperature: float):
    """[T, V] log-probabilities by one plain forward pass of the model."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt + response])).logits[0].double()
    rows = logits[len(prompt) - 1 : len(prompt) + len(response) - 1]
    return (rows / temperature).log_softmax(-1)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_what_is_kept_is_what_a_plain_forward_pass_gives(micro_batch_size):
    learner = learner_of(VPD(beta=0.5), micro_batch_size=micro_batch_size)
    rollouts = mixed_rollouts(learner.policy)
    prompts = learner.prompts_with_feedback(rollouts)
    for kept, rollout, prompt in zip(
        kept_rollouts(learner, rollouts), rollouts, prompts, strict=True
    ):
        ids = rollout.response_ids
        logp = distributions(learner.policy, rollout.prompt_ids, ids, 0.7)
        chosen = torch.tensor(ids)[:, None]
        student = logp.gather(1, chosen)[:, 0]
        assert kept["student_logprob"] == pytest.approx(student.tolist(), abs=1e-3)
        entropy = -(logp.exp() * logp).sum(-1)
        assert kept["student_entropy"] == pytest.approx(entropy.tolist(), abs=1e-3)
        assert (prompt is None) == (not rollout.feedback)
        if prompt is None:
            assert kept["teacher_prompt"] is None
            assert not kept["taught"]
            assert "teacher_logprob" not in kept
            assert "divergence" not in kept
            continue
        logq = distributions(learner.policy, prompt, ids, 0.7)
        teacher = logq.gather(1, chosen)[:, 0]
        assert kept["teacher_logprob"] == pytest.approx(teacher.tolist(), abs=1e-3)
        entropy = -(logq.exp() * logq).sum(-1)
        assert kept["teacher_entropy"] == pytest.approx(entropy.tolist(), abs=1e-3)
        divergence = (logp.exp() * (logp - logq)).sum(-1)  # alpha=1: KL(student‖teacher)
        assert kept["divergence"] == pytest.approx(divergence.tolist(), abs=1e-3)
        implicit = 0.5 * (teacher - student)
        assert kept["implicit_reward"] == pytest.approx(implicit.tolist(), abs=1e-3)
        assert kept["teacher_prompt"] == learner.policy.tokenizer.decode(prompt)


def test_advantages_are_those_of_the_whole_group():
    learner = learner_of(GRPO())
    rollouts = mixed_rollouts(learner.policy)
    kept = kept_rollouts(learner, rollouts)
    rewards = [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]
    expected = []
    for group in rewards:
        mean = sum(group) / 3
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / 2)
        expected += [(r - mean) / (deviation + 1e-6) for r in group]
    assert [k["advantage"] for k in kept] == pytest.approx(expected, abs=1e-4)
    assert all(not k["taught"] and "teacher_logprob" not in k for k in kept)
    assert [k["reward"] for k in kept] == [*rewards[0], *rewards[1]]


def test_taught_rollouts_are_those_that_the_algorithm_chooses():
    policy = small_policy()
    rollouts = mixed_rollouts(policy)
    told = [bool(r.feedback) for r in rollouts]
    solved = [r.reward == 1 for r in rollouts]

    def taught(algorithm, **changes) -> list[bool]:
        return [k["taught"] for k in kept_rollouts(learner_of(algorithm, **changes), rollouts)]

    failed_only = [t and not s for t, s in zip(told, solved, strict=True)]
    assert taught(SDPO(distill_on="failed")) == failed_only
    # In both groups those who solved are above the mean, and all others below it.
    above_mean = [t and s for t, s in zip(told, solved, strict=True)]
    assert taught(SDPG(positive_only=True, distill_on="solved")) == above_mean
    ended = [r.finish == "stop" for r in rollouts]
    assert not all(e for e, t in zip(ended, failed_only, strict=True) if t)
    ended_only = [t and e for t, e in zip(failed_only, ended, strict=True)]
    assert taught(SDPO(distill_on="failed"), teach_truncated=False) == ended_only


def test_an_algorithm_without_a_divergence_keeps_the_teachers_numbers():
    learner = learner_of(SDAR())
    kept = kept_rollouts(learner, mixed_rollouts(learner.policy))[0]
    assert {"teacher_logprob", "teacher_entropy"} <= kept.keys()
    assert "divergence" not in kept


def test_rlsd_keeps_the_advantage_of_each_token():
    """Between (1 − λε) and (1 + λε) times that of the rollout."""
    learner = learner_of(RLSD(teacher_share=0.5, token_clip=0.2))
    with torch.no_grad():  # so that student and teacher differ
        next(iter(learner.policy.parameters())).mul_(1.5)
    for kept in kept_rollouts(learner, mixed_rollouts(learner.policy)):
        if kept["teacher_prompt"] is None:
            assert "token_advantage" not in kept
            continue
        factors = [a / kept["advantage"] for a in kept["token_advantage"]]
        assert all(0.899 < factor < 1.101 for factor in factors)
        assert any(abs(factor - 1) > 0.01 for factor in factors)


def test_tokens_of_the_environment_have_no_numbers():
    learner = learner_of(SDPO())
    first, *others = mixed_rollouts(learner.policy)
    turns = replace(first, is_policy_token=[True, False, True])
    kept = kept_rollouts(learner, [turns, *others])[0]
    for name in ("student_logprob", "student_entropy", "teacher_logprob", "divergence"):
        assert [x is None for x in kept[name]] == [False, True, False]


@pytest.mark.parametrize("text", ["plain", "größer 🙂 é", "日本語\n🙂🙂", ""])
def test_texts_of_tokens_join_to_the_text(text):
    tokenizer = small_policy().tokenizer
    ids = tokenizer(text).input_ids
    texts = token_texts(ids, tokenizer.decode)
    assert len(texts) == len(ids) >= len(text)
    assert "".join(texts) == text


def test_bytes_that_are_no_text_do_not_hold_up_what_follows():
    tokenizer = small_policy().tokenizer
    broken = tokenizer("🙂").input_ids[:2]
    letters = tokenizer("ab" * 8).input_ids
    texts = token_texts([*broken, *letters], tokenizer.decode)
    assert len(texts) == 2 + 16
    assert "".join(texts).endswith("ab" * 7)


def test_the_group_whose_rewards_differ_most_is_kept():
    policy = small_policy()
    rollouts = mixed_rollouts(policy)
    flat = [replace(r, group=2, reward=1.0) for r in rollouts[:3]]
    (best,) = most_instructive([*flat, *rollouts], 1)
    # Both other groups range over 0 to 1; the second has feedback on all three.
    assert best == rollouts[3:]
    assert most_instructive([*flat, *rollouts], 9) == [rollouts[3:], rollouts[:3], flat]


class Near(SecretLetter):
    def judge(self, problem: Problem, answer: str) -> Verdict:
        first = answer.encode("utf-8", "replace")[:1] or b"\0"
        distance = abs(first[0] - ord(str(problem.target))) / 256
        status = Status.SOLVED if distance < 0.1 else Status.WRONG_ANSWER
        return Verdict(1 - distance, status, f"{distance:.2f} from {problem.target}")


def trained(algorithm, path, kind: type[Trainer] = Trainer, **changes) -> list[dict]:
    """The metrics of a run that is made, without its times."""
    config = replace(CONFIG, success_reward=0.9, **changes)
    out = RunFolder(path)
    trainer = kind(
        small_policy(),
        algorithm,
        Near.vector(config.rollouts_per_step),
        config,
        out=out,
        progress=False,
        warn=lambda text: None,
    )
    trainer.train()
    out.close()
    rows = read_jsonl(path / "metrics.jsonl")
    timed = ("seconds/", "idle/", "tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


@pytest.mark.parametrize("algorithm", [VPD(e_step_every=2, teacher="ema"), SDPO(), GRPO()])
def test_what_a_run_learns_does_not_depend_on_what_it_keeps(tmp_path, algorithm):
    with_it = trained(algorithm, tmp_path / "with", inspect_every=1, inspect_groups=2)
    without = trained(algorithm, tmp_path / "without", inspect_every=0)
    assert with_it == without
    assert [r["step"] for r in read_jsonl(tmp_path / "with" / INSPECT)] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "without" / INSPECT).exists()


def test_numbers_are_those_of_the_weights_at_the_start_of_each_step(tmp_path):
    """HFEngine samples with exactly these, and tells its log-probabilities."""
    sampled: dict[int, dict[str, list[float]]] = {}  # step → text of the tokens → log-probabilities

    class Watching(Trainer):
        def train_step(self, rollouts, **kwargs):
            decode = self.policy.tokenizer.decode
            sampled[self.step + 1] = {
                "".join(token_texts(r.response_ids, decode)): r.logprobs for r in rollouts
            }
            return super().train_step(rollouts, **kwargs)

    trained(VPD(e_step_every=1), tmp_path / "run", Watching, inspect_every=1)
    rows = read_jsonl(tmp_path / "run" / INSPECT)
    assert len(rows) == len(sampled) == 6
    for row in rows:
        for kept in row["groups"][0]["rollouts"]:
            expected = sampled[row["step"]]["".join(kept["tokens"])]
            assert kept["student_logprob"] == pytest.approx(expected, abs=1e-3)


def test_a_resumed_run_keeps_what_an_uninterrupted_one_keeps(tmp_path):
    config = replace(CONFIG, success_reward=0.9, inspect_every=1)

    def run(path, steps, resume=False):
        out = RunFolder(path, resume=resume)
        trainer = Trainer(
            small_policy(),
            SDPO(),
            Near.vector(config.rollouts_per_step),
            replace(config, steps=steps),
            out=out,
            progress=False,
        )
        if resume:
            trainer.load(path / "checkpoints" / "000002")
        out.write_config({})
        trainer.train()
        out.close()

    run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)  # its third step is taken again
    run(tmp_path / "parts", 6, resume=True)
    whole, parts = (read_jsonl(tmp_path / name / INSPECT) for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole) == 6


def test_a_thinned_file_keeps_every_second_row_rather_than_grow(tmp_path):
    rows = [{"number": n, "text": "x" * 100} for n in range(40)]
    size = len(json.dumps(rows[0])) + 1
    path = tmp_path / "rows.jsonl"
    file = ThinnedFile(path, 5.5 * (size + 1))
    for row in rows:
        if file.wants(row["number"]):
            assert file.append(row)
        assert path.stat().st_size <= file.max_bytes
    # Five rows fit: of 40 those that are multiples of 8.
    assert [r["number"] for r in read_jsonl(path)] == [0, 8, 16, 24, 32]


def test_a_thinned_file_that_is_opened_again_goes_on_alike(tmp_path):
    rows = [{"number": n, "text": "x" * 100} for n in range(40)]
    for name, opened_anew in (("once", False), ("often", True)):
        file = ThinnedFile(tmp_path / name, 700)
        for row in rows:
            if opened_anew:
                file = ThinnedFile(tmp_path / name, 700)
            if file.wants(row["number"]):
                file.append(row)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "often").read_bytes()


def test_what_is_larger_than_the_limit_is_left_out_with_a_word(tmp_path):
    said: list[str] = []
    out = RunFolder(tmp_path / "run")
    config = replace(CONFIG, inspect_max_mb=0.0001)
    trainer = Trainer(
        small_policy(),
        SDPO(),
        SecretLetter.vector(config.rollouts_per_step),
        config,
        out=out,
        progress=False,
        warn=said.append,
    )
    trainer.train()
    out.close()
    assert not (tmp_path / "run" / INSPECT).exists()
    assert sum("inspect_max_mb = 0.0001" in text for text in said) == 1


def test_an_algorithm_from_outside_needs_nothing_for_it():
    class Own(Algorithm):
        def losses(self, step: Step) -> list[Loss]:
            return []

    learner = learner_of(Own())
    kept = kept_rollouts(learner, mixed_rollouts(learner.policy))[0]
    assert len(kept["student_logprob"]) == len(kept["tokens"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inspect_every", -1),
        ("inspect_groups", 0),
        ("inspect_max_mb", 0),
        ("inspect_max_mb", math.nan),
    ],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})
