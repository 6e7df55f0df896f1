"""Several processes, whole models or sharded ones, learn what one process learns."""

from __future__ import annotations

import copy
import json
import multiprocessing
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts, small_policy
from vpd_agent.algorithms import ALGORITHMS, GRPO, SDAR, SDPO, VPD, Step
from vpd_agent.distributed.fsdp import shard
from vpd_agent.distributed.world import Processes
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.in_training import with_logprobs
from vpd_agent.model.lora import add_lora
from vpd_agent.model.policy import Policy
from vpd_agent.runs.files import read_jsonl
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.inspection import kept_rollouts
from vpd_agent.train.learner import Learner
from vpd_agent.train.trainer import Trainer
from vpd_agent.train.updater import NonFiniteGradient

CONFIG = TrainConfig(
    steps=4,
    prompts_per_step=4,
    group_size=3,
    learning_rate=1e-3,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=6,
    eval_every=0,
    micro_batch_tokens=300,  # parts of unequal size, and of unequal number in the processes
    max_step_kl=1e-9,  # which every step exceeds
)

# One of each kind: a gate, a reference, sums over the whole batch, teacher rollouts.
KINDS = ("vpd-pg", "sdpg", "sc-sdpo", "srpo", "rft", "pi-distill", "past")
VARIANTS = {
    **{name: ALGORITHMS[name]() for name in KINDS},
    "grpo with reference": GRPO(kl_to_reference=0.3, reference_rate=0.4),
    "vpd with fixed prior": VPD(e_step_every=1, prior="fixed", teacher="ema"),
    "sdpo with top-k": SDPO(top_k=7, alpha=0.5, teacher="trust_region"),
}


def in_processes(count: int, folder, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` returns in each of `count` processes of one run, by rank."""
    context = multiprocessing.get_context("fork")

    def run(rank: int) -> None:
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
            )
            result = work(Processes())
        except BaseException:
            result = traceback.format_exc()
        torch.save(result, folder / f"{rank}.pt")

    workers = [context.Process(target=run, args=(rank,), daemon=True) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    for worker in workers:
        worker.kill()  # one that still waits for another
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]
    for result in results:
        assert not isinstance(result, str), result
    return results


def all_rollouts(policy: Policy) -> list:
    """Twelve rollouts of four problems, alike in no length; reward and feedback are mixed."""
    first = mixed_rollouts(policy)
    second = [replace(r, group=r.group + 2, reward=1 - r.reward, feedback="no, " * 9)
              for r in first]  # fmt: skip
    return first + second


def with_teacher_rollouts(rollouts: list, policy: Policy) -> list:
    """Of each group, all but the first were sampled on a teacher's prompt."""
    firsts = {r.group: r for r in reversed(rollouts)}.values()
    return [
        r if any(r is first for first in firsts) else replace(
            r,
            plain_prompt_ids=r.prompt_ids,
            prompt_ids=policy.encode([{"role": "user", "content": f"{r.problem_id}, a hint"}]),
        )
        for r in rollouts
    ]  # fmt: skip


def make_trainer(algorithm, processes: Processes, policy: Policy | None = None, **changes):
    config = replace(CONFIG, **changes)
    trainer = Trainer(
        policy or float64_policy(),
        algorithm,
        SecretLetter.vector(config.rollouts_per_step // processes.size),
        config,
        processes=processes,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # so that student, teacher and reference differ
        for p in trainer.policy.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return trainer


def learned(algorithm, processes: Processes, shard: bool = False, lora: bool = False) -> dict:
    """Gradients and metrics of the first step's losses; then weights and state after two steps."""
    policy = float64_policy()
    rollouts = all_rollouts(policy)
    if algorithm.teacher_rollouts:
        rollouts = with_teacher_rollouts(rollouts, policy)
    rollouts = processes.local_shard(rollouts)
    trainer = make_trainer(algorithm, processes, add_lora(policy, rank=2) if lora else policy)
    if shard:
        shard_all(trainer)
    batch = trainer.make_batch([r for r in rollouts if not r.is_teacher_rollout])
    of_teacher = trainer._batch_of_teacher([r for r in rollouts if r.is_teacher_rollout], batch)
    gradients, metrics = {}, {}
    for loss in algorithm.losses(Step(0, 4)):
        trainer.state, metrics[loss.name] = trainer.updater.gradient(
            loss,
            trainer.micro_batches(batch),
            trainer.state,
            trainer.micro_batches(of_teacher) if of_teacher is not None else (),
        )
        gradients[loss.name] = [whole(p.grad) for p in trainer.policy.parameters()]
    trainer.state = {}
    steps = []
    if algorithm.gate is None:  # a gate samples, and each process has its own random numbers
        steps = [trainer.train_step(rollouts) for _ in range(2)]
    weights = [whole(p.detach()) for p in trainer.policy.parameters()]
    return {"gradients": gradients, "metrics": metrics, "steps": steps, "weights": weights,
            "state": trainer.state}  # fmt: skip


def assert_same(mine: dict, expected: dict) -> None:
    for key in ("gradients", "weights", "state"):
        torch.testing.assert_close(mine[key], expected[key], rtol=1e-9, atol=1e-11)
    for key in ("metrics", "steps"):  # some are means of float32
        torch.testing.assert_close(mine[key], expected[key], rtol=1e-6, atol=1e-6)


def shard_all(trainer: Trainer) -> None:
    teacher = trainer.teacher and trainer.teacher.policy
    shard([p for p in (trainer.policy, teacher, trainer.reference) if p is not None])


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    return {name: learned(algorithm, Processes()) for name, algorithm in VARIANTS.items()}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, tmp_path_factory) -> list[dict[str, dict]]:
    folder = tmp_path_factory.mktemp(f"processes{request.param}")
    return in_processes(
        request.param, folder,
        lambda processes: {n: learned(a, processes) for n, a in VARIANTS.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> list[dict[str, dict]]:
    return in_processes(
        2, tmp_path_factory.mktemp("sharded"),
        lambda processes: {n: learned(a, processes, shard=True) for n, a in VARIANTS.items()},
    )  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_any_number_of_processes_gives_the_gradient_and_the_metrics_of_one(name, alone, together):
    for mine in together:
        assert_same(mine[name], alone[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_all_processes_have_the_same_weights_and_state_bit_for_bit(name, together):
    first, *others = together
    for other in others:
        assert other[name]["state"] == first[name]["state"]
        for a, b in zip(first[name]["weights"], other[name]["weights"], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_that_sample_for_themselves_agree_on_gate_weights_and_metrics(tmp_path, sharded):
    """A whole run: each samples its own rollouts, and asks its own teacher for the gate."""
    algorithm = ALGORITHMS["vpd-pg"]()
    assert algorithm.gate is not None

    def train(processes: Processes) -> tuple:
        trainer = make_trainer(algorithm, processes)
        if sharded:
            shard_all(trainer)
        metrics = []
        for _ in range(2):
            with trainer.policy.gathered():
                rollouts = trainer.collect().rollouts
            metrics.append(trainer.train_step(rollouts))
        weights = [whole(p.detach()) for p in trainer.policy.parameters()]
        return metrics, trainer.state, weights

    (metrics, state, weights), (others_metrics, others_state, others) = in_processes(
        2, tmp_path, train
    )
    assert metrics[0]["gate/rows"] > 0
    assert (others_metrics, others_state) == (metrics, state)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_evaluate_together_what_one_would_alone(tmp_path, sharded):
    """Solved attempts of the first evaluation are shared out; each process samples its own teacher.
    The distance from the initial policy is that of all of them."""

    def evaluate(processes: Processes) -> dict[str, float]:
        trainer = make_trainer(SDPO(teacher="ema"), processes, eval_every=1)
        trainer.evaluation = SecretLetter.vector(4, split="test")
        attempts = all_rollouts(trainer.policy)[:5]
        trainer.failures = []
        trainer.successes = with_logprobs(trainer.policy, attempts, trainer.config)
        if sharded and processes.size > 1:
            shard_all(trainer)
        trainer.train_step(processes.local_shard(all_rollouts(trainer.policy)))
        return trainer.evaluate()

    metrics, others = in_processes(2, tmp_path, evaluate)
    alone = evaluate(Processes())
    assert others == pytest.approx(metrics, nan_ok=True)
    assert metrics["eval/distance_solved"] == pytest.approx(alone["eval/distance_solved"])
    assert metrics["eval/distance_solved"] != 0
    assert 0 <= metrics["eval/form_changed"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_sharded_model_learns_what_a_whole_one_does(name, alone, sharded):
    for mine in sharded:
        assert_same(mine[name], alone[name])


def test_sharded_processes_keep_for_vpd_inspect_what_one_keeps(tmp_path):
    """One of them has another number of micro-batches, and all must make the same passes."""

    def kept(processes: Processes) -> list[dict]:
        trainer = make_trainer(VPD(prior="fixed", teacher="ema"), processes)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if processes.size > 1:
            shard_all(trainer)
        return kept_rollouts(trainer, rollouts)

    together = [row for rows in in_processes(2, tmp_path, kept) for row in rows]
    for mine, expected in zip(together, kept(Processes()), strict=True):
        assert mine.keys() == expected.keys()
        for name in mine:
            numbers = isinstance(mine[name], list) and name != "tokens"
            assert mine[name] == (
                pytest.approx(expected[name], abs=2e-3) if numbers else expected[name]
            )


def test_processes_with_fewer_parts_stand_in_for_those_with_more(tmp_path):
    """The tests above are about unequal numbers of micro-batches only if these are unequal."""

    def count(processes: Processes) -> tuple[int, int]:
        trainer = make_trainer(VPD(), processes)
        batch = trainer.make_batch(processes.local_shard(all_rollouts(trainer.policy)))
        mine = len(list(batch.split(None, CONFIG.micro_batch_tokens)))
        return mine, len(list(trainer.micro_batches(batch)))

    (mine, passes), (others, their_passes) = in_processes(2, tmp_path, count)
    assert mine != others
    assert passes == their_passes == max(mine, others)


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_take_the_same_mini_batches_though_one_has_fewer_problems(tmp_path, sharded):
    """Four problems of three rollouts; the last one's could not be judged. So the second process
    has a part in the first of two mini-batches only, and both end with the weights of one process
    that takes the same two steps."""
    rows = all_rollouts(float64_policy())[:9]
    losses = SDPO().losses(Step(0, 4))

    def learned_together(processes):
        trainer = make_trainer(SDPO(), processes, mini_batches=2)
        if sharded:
            shard_all(trainer)
        trainer.train_step([r for r in rows if r.group // 2 == processes.rank])
        return [whole(p.detach()) for p in trainer.policy.parameters()]

    def learned_alone(*groups):
        trainer = make_trainer(SDPO(), Processes())
        for some in groups:
            batch = trainer.make_batch([r for r in rows if r.group in some])
            for loss in losses:
                trainer.updater.update(loss, trainer.micro_batches(batch), {}, 0)
        return [p.detach() for p in trainer.policy.parameters()]

    found = in_processes(2, tmp_path, learned_together)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    orders = [learned_alone({0, 2}, {1}), learned_alone({1, 2}, {0})]
    assert sum(
        all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(x, found[0], strict=True))
        for x in orders
    ) == 1  # fmt: skip


def test_mini_batches_must_divide_the_problems_of_each_process(tmp_path):
    def refused(processes):
        with pytest.raises(ValueError, match=r"Each of 2 processes has 2 .*got 4. Lower it to 2"):
            make_trainer(SDPO(), processes, mini_batches=4)

    in_processes(2, tmp_path, refused)


def test_each_process_holds_its_part_of_weights_gradients_and_moments(tmp_path):
    def held(processes: Processes) -> tuple[int, ...]:
        trainer = make_trainer(SDPO(), processes)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if processes.size > 1:
            shard_all(trainer)
        trainer.train_step(rollouts)
        parameters = trainer.policy.parameters()
        moments = [m["exp_avg"] for m in trainer.updater.optimizers["policy"].state.values()]
        teacher = list(trainer.teacher.policy.weights.values())
        gradients = [p.grad for p in parameters]
        return tuple(sum(size(t) for t in some)
                     for some in (parameters, gradients, moments, teacher))  # fmt: skip

    def size(tensor: torch.Tensor) -> int:
        return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel()

    alone = held(Processes())
    first, second = in_processes(2, tmp_path, held)
    assert tuple(a + b for a, b in zip(first, second, strict=True)) == alone
    assert max(first + second) <= 0.51 * alone[0]


@pytest.mark.parametrize("algorithm", [VPD(e_step_every=1, prior="fixed", teacher="ema"),
                                       SDAR(teacher="ema", reference_rate=0.4)])  # fmt: skip
def test_an_adapter_of_a_sharded_model_learns_what_one_of_a_whole_model_does(tmp_path, algorithm):
    """Student, averaged teacher and reference share one sharded model."""
    alone = learned(algorithm, Processes(), lora=True)
    together = in_processes(
        2, tmp_path, lambda processes: learned(algorithm, processes, shard=True, lora=True)
    )
    for mine in together:
        assert_same(mine, alone)


def test_float32_gradients_are_summed_not_averaged(tmp_path):
    """FSDP reduces float32 and float64 in different ways."""

    def gradients(processes: Processes) -> list[torch.Tensor]:
        policy = small_policy()
        trainer = make_trainer(GRPO(), processes, policy)
        batch = trainer.make_batch(processes.local_shard(all_rollouts(policy)))
        if processes.size > 1:
            shard_all(trainer)
        loss = GRPO().losses(Step(0, 4))[0]
        trainer.updater.gradient(loss, trainer.micro_batches(batch), {})
        return [whole(p.grad) for p in policy.parameters()]

    for mine in in_processes(2, tmp_path, gradients):
        torch.testing.assert_close(mine, gradients(Processes()), rtol=1e-4, atol=1e-6)


def test_a_sharded_model_samples_what_a_whole_one_does_and_goes_on_learning(tmp_path):
    """Within gathered(), the processes may sample different numbers of times."""

    def sample_and_learn(processes: Processes) -> tuple:
        trainer = make_trainer(SDPO(), processes)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if processes.size > 1:
            shard_all(trainer)
        engine = HFEngine(trainer.policy)
        trainer.train_step(rollouts)
        sampled = []
        with trainer.policy.gathered(), trainer.policy.gathered():
            for _ in range(1 + 2 * processes.rank):
                generator = torch.Generator().manual_seed(3)
                sampled.append(engine.generate([[5, 6, 7], [8]], samples=2, max_tokens=5,
                                               generator=generator))  # fmt: skip
        trainer.train_step(rollouts)
        return sampled, [whole(p.detach()) for p in trainer.policy.parameters()]

    (alone,), weights = sample_and_learn(Processes())
    for rank, (sampled, mine) in enumerate(in_processes(2, tmp_path, sample_and_learn)):
        assert len(sampled) == 1 + 2 * rank
        for one in sampled:
            assert [g.ids for g in one] == [g.ids for g in alone]
        torch.testing.assert_close(mine, weights, rtol=1e-9, atol=1e-11)


def test_one_process_may_make_the_first_pass_of_a_gathered_model_alone(tmp_path):
    """As the first one does to compare a server with the policy."""

    def logprobs(processes: Processes) -> torch.Tensor:
        policy = small_policy()  # that has made no pass yet
        if processes.size > 1:
            shard([policy])
        prompt, response = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9]])
        inputs = prompt, prompt > 0, response, response > 0
        with torch.no_grad():
            with policy.gathered():
                if processes.is_first:
                    policy.forward(*inputs)
            return policy.forward(*inputs).logprobs

    for mine in in_processes(2, tmp_path, logprobs):
        torch.testing.assert_close(mine, logprobs(Processes()))


def test_sharded_processes_learn_what_one_does_while_they_sample_the_next_rollouts(tmp_path):
    """The next rollouts are sampled meanwhile from copies that are not sharded. As with every
    sampler of other weights, a step begins with a pass without gradient."""

    def two_steps(processes: Processes) -> tuple:
        trainer = make_trainer(SDPO(teacher="ema"), processes, overlap=True)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if processes.size > 1:
            shard_all(trainer)
        metrics, ahead = [], []
        for _ in range(2):
            metrics.append(trainer.train_step(rollouts, meanwhile=trainer._collecting_ahead()))
            ahead.append(trainer._ahead.take(trainer.step).collected)
        generator = torch.Generator().manual_seed(3)
        with trainer.sampler_to_itself():
            sampled = trainer.engine.generate([[5, 6, 7], [8]], max_tokens=5, generator=generator)
        weights = [whole(p.detach()) for p in trainer.policy.parameters()]
        return metrics, weights, sampled, [len(collected.rollouts) for collected in ahead]

    metrics, weights, (first, second), _ = two_steps(Processes())
    for mine in in_processes(2, tmp_path, two_steps):
        torch.testing.assert_close(mine[0], metrics, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mine[1], weights, rtol=1e-9, atol=1e-11)
        assert [g.ids for g in mine[2]] == [first.ids, second.ids]  # by the new weights
        assert mine[2][0].logprobs == pytest.approx(first.logprobs, abs=1e-5)
        assert mine[3] == [6, 6]  # of the twelve of a step


@pytest.mark.slow
def test_a_sharded_run_can_be_resumed_whole_and_a_whole_one_sharded(tmp_path):
    """State is written as one process would write it: weights, averages, moments."""
    algorithm = VPD(e_step_every=1, e_step_optimizer="own", teacher="ema")

    def states(trainer: Trainer) -> dict:
        return {k: v for k, v in Learner.state_dict(trainer).items() if v is not None}

    def two_steps(processes: Processes, saved: dict | None = None) -> tuple[dict, dict]:
        """States after the first of two steps and at the end; with `saved` only the second."""
        trainer = make_trainer(algorithm, processes)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if processes.size > 1:
            shard_all(trainer)
        if saved is None:
            trainer.train_step(rollouts)
            saved = copy.deepcopy(states(trainer))
        else:
            Learner.load_state_dict(trainer, copy.deepcopy(saved))
        trainer.train_step(rollouts)
        return saved, states(trainer)

    after_one, after_two = two_steps(Processes())
    assert after_one["step"] == 1
    assert after_one["rate_share"] < 1
    (sharded_one, _), _ = in_processes(2, tmp_path, two_steps)
    torch.testing.assert_close(sharded_one, after_one, rtol=1e-9, atol=1e-11)
    whole_again = two_steps(Processes(), sharded_one)[1]
    torch.testing.assert_close(whole_again, after_two, rtol=1e-9, atol=1e-11)
    (tmp_path / "meet").unlink()
    resumed = in_processes(2, tmp_path, lambda processes: two_steps(processes, after_one))
    torch.testing.assert_close(resumed[0][1], after_two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lora", [False, True])
def test_state_can_be_asked_for_while_a_model_is_gathered(tmp_path, lora):
    """As a run does that fails while it samples; what it got outlives the gathering."""

    def ask(processes: Processes) -> bool:
        policy = add_lora(small_policy(), rank=2) if lora else small_policy()
        shard([policy])
        with policy.gathered():
            before = policy.state_dict()
            if processes.is_first:  # the model is still whole: a pass needs no other process
                policy.model(torch.tensor([[1, 2]]))
        after = policy.state_dict()
        same = [torch.equal(before[n], after[n]) for n in after if processes.is_first]
        return all(same) and len(same) == len(after) * processes.is_first

    assert in_processes(2, tmp_path, ask) == [True, True]


@pytest.mark.parametrize("lora", [False, True])
def test_a_sharded_policy_saves_a_model_that_transformers_loads(tmp_path, lora):
    def save(processes: Processes) -> None:
        policy = small_policy()
        if lora:
            policy = add_lora(policy, rank=2)
            perturb_adapter(policy)
        shard([policy])
        policy.save(tmp_path / "model" if processes.is_first else None)

    in_processes(2, tmp_path, save)
    expected = small_policy()
    if lora:
        expected = add_lora(expected, rank=2)
        perturb_adapter(expected)
    loaded = Policy.load(str(tmp_path / "model"))
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(loaded.model(ids).logits, expected.model(ids).logits)


def perturb_adapter(policy: Policy) -> None:
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.1 * torch.arange(weight.numel()).view_as(weight).cos())


def test_layers_computed_again_give_a_sharded_model_the_same_gradient(tmp_path):
    def gradients(processes: Processes) -> list[torch.Tensor]:
        policy = float64_policy()
        policy.enable_gradient_checkpointing()
        trainer = make_trainer(SDPO(), processes, policy)
        batch = trainer.make_batch(processes.local_shard(all_rollouts(policy)))
        if processes.size > 1:
            shard_all(trainer)
        loss = SDPO().losses(Step(0, 4))[0]
        trainer.updater.gradient(loss, trainer.micro_batches(batch), {})
        return [whole(p.grad) for p in policy.parameters()]

    for mine in in_processes(2, tmp_path, gradients):
        torch.testing.assert_close(mine, gradients(Processes()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_gradient_that_is_not_finite_in_one_process_stops_all_of_them(tmp_path, sharded):
    def step(processes: Processes) -> bool:
        trainer = make_trainer(GRPO(), processes)
        rollouts = processes.local_shard(all_rollouts(trainer.policy))
        if not processes.is_first:
            nan = float("nan")
            rollouts = [replace(r, logprobs=[nan] * len(r.logprobs)) for r in rollouts]
        if sharded:
            shard_all(trainer)
        batch = trainer.make_batch(rollouts)
        before = [whole(p.detach()) for p in trainer.policy.parameters()]
        loss = GRPO().losses(Step(0, 4))[0]
        with pytest.raises(NonFiniteGradient):
            trainer.updater.update(loss, trainer.micro_batches(batch), {}, 0)
        after = [whole(p.detach()) for p in trainer.policy.parameters()]
        return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    assert in_processes(2, tmp_path, step) == [True, True]


def test_processes_tell_each_other_numbers_and_values(tmp_path):
    def talk(processes: Processes) -> tuple:
        shared = torch.full((2,), float(processes.rank))
        processes.broadcast_([shared])
        with processes.main_process_first():
            seen = sorted(p.name for p in tmp_path.glob("turn-*"))
            (tmp_path / f"turn-{processes.rank}").touch()
        return (
            processes.local_shard([10, 11, 12, 13, 14, 15]),
            processes.sum({"a": processes.rank + 1, "b": 0.5}),
            processes.max(processes.rank),
            processes.gather({"rank": processes.rank}),
            shared.tolist(),
            "turn-0" in seen,
        )

    for rank, result in enumerate(in_processes(3, tmp_path, talk)):
        share, total, most, gathered, shared, seen = result
        assert share == [[10, 11], [12, 13], [14, 15]][rank]
        assert total == {"a": 6.0, "b": 1.5}
        assert most == 2
        assert gathered == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert shared == [0.0, 0.0]
        assert seen == (rank > 0)


def test_alone_a_process_needs_no_others(tmp_path):
    alone = Processes()
    assert alone.local_shard([1, 2]) == [1, 2]
    assert alone.sum({"a": 2.0}) == {"a": 2.0}
    assert (alone.max(3), alone.gather("x"), alone.is_first) == (3, ["x"], True)
    with alone.main_process_first():
        alone.wait()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_start_processes_that_find_each_other(tmp_path, launcher):
    script = tmp_path / "script.py"
    script.write_text(
        "from vpd_agent.distributed.world import Processes\n"
        "processes = Processes.join('cpu')\n"
        "total = processes.sum({'rank': float(processes.rank)})['rank']\n"
        "print(f'{processes.rank + 1} of {processes.size}: {total}\\n', end='')\n"
        "processes.leave()\n"
    )
    commands = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node=2"],
        # On the CPU alone accelerate starts several processes by MPI only; this is for any device.
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
                       "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
                       "--main_process_port=0"],
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", *commands[launcher], str(script)],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split("\n")) == ["", "1 of 2: 1.0", "2 of 2: 1.0"]


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are GPUs for all")
def test_processes_without_a_gpu_of_their_own_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        ValueError, match=r"process 1 on a machine with [01]\. Start one process per"
    ):
        Processes.join("cuda")
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("modes", [[], ["--sharding=fsdp", "--overlap"]])
def test_the_command_line_trains_and_resumes_with_two_processes(tmp_path, modes):
    def train(*options: str) -> None:
        run = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
                "-m", "vpd_agent.cli", "train", "sdpo", "--model=tiny", "--env=vpd/MiniCode-v0",
                "--sandbox=local", f"--out={tmp_path / 'run'}", "--device=cpu", "--quiet",
                "--prompts-per-step=2", "--group-size=2", "--max-response-tokens=8",
                "--eval-every=2", "--eval-problems=4", "--save-every=1", "--samples-every=1",
                "--samples-all", *modes, *options,
            ],
            capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr

    train("--steps=2")
    train("--steps=3", "--resume")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(row["rollouts"] == 4 for row in rows[1:])
    kept = read_jsonl(tmp_path / "run" / "samples.jsonl")
    sampled_by = [(sample["step"], sample["process"]) for sample in kept]
    assert sampled_by == [(step, rank) for step in (1, 2, 3) for rank in (0, 0, 1, 1)]
    Policy.load(str(tmp_path / "run" / "model"))
