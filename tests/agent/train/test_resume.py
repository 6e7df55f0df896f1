"""Runs that are killed, interrupted, or out of disk, and go on as if nothing had been."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.helpers import SecretLetter, small_policy
from sandbox import SandboxError
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.cli.main import main
from vpd_agent.distributed.world import Processes
from vpd_agent.model.lora import add_lora
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.run_folder import RunFolder, SaveError
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer
from vpd_envs import Status, Verdict

CONFIG = TrainConfig(
    steps=16,
    prompts_per_step=3,
    group_size=3,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=4,
    eval_every=4,
    eval_failures=5,
    save_every=2,
    samples_every=2,
)
ALGORITHMS = {
    "grpo": (GRPO(kl_to_reference=0.1), {}),
    "sdpo": (SDPO(teacher="ema"), {"max_step_kl": 1e-4}),
    "vpd": (VPD(e_step_every=2, e_step_optimizer="own"), {}),
    "vpd-overlap": (VPD(e_step_every=2), {"overlap": True}),
}


class Nearness(SecretLetter):
    """The reward is how near the answer's first byte is to the letter, so that it hardly ever is
    the same within a group; on both sides of 0.9 there are some."""

    def judge(self, problem, answer):
        first = answer.encode("utf-8", "replace")[:1] or b"\0"
        distance = abs(first[0] - ord(problem.target)) / 256
        status = Status.SOLVED if distance < 0.1 else Status.WRONG_ANSWER
        return Verdict(1 - distance, status, f"{distance:.2f} from {problem.target}")


class OtherLetters(Nearness):
    def __init__(self, **kwargs):
        super().__init__("ijklmnop", **kwargs)


def make_trainer(algorithm, out=None, policy=None, environment=Nearness, **changes) -> Trainer:
    config = replace(CONFIG, success_reward=0.9, **changes)
    return Trainer(
        policy or small_policy(),
        algorithm,
        environment.vector(config.rollouts_per_step),
        config,
        evaluation=Nearness.vector(5, split="test"),
        out=out,
    )


def train(path: Path, name: str, *, doomed: bool = False) -> None:
    """Begin the run in a folder, or go on with it. A doomed one stays until it is killed."""
    torch.set_num_threads(1)
    algorithm, changes = ALGORITHMS[name]
    folder = RunFolder(path, resume=(path / "config.json").exists())
    folder.write_config({})
    trainer = make_trainer(algorithm, folder, **changes)
    checkpoint = RunFolder.latest_checkpoint(path)
    if checkpoint is not None:
        trainer.load(checkpoint)
    trainer.train()
    folder.close()
    if doomed:
        signal.pause()


def lasting(rows: list[dict]) -> list[dict]:
    """Rows of metrics without what a clock says."""
    return [
        {
            k: v
            for k, v in row.items()
            if not k.startswith(("seconds/", "idle/")) and "per_second" not in k
        }
        for row in rows
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "best").exists() == (other / "best").exists()
    for name in ("model", "best"):
        if (one / name).exists():
            files = [path / name / "model.safetensors" for path in (one, other)]
            assert files[0].read_bytes() == files[1].read_bytes(), name
    rows = [lasting(read_jsonl(path / "metrics.jsonl")) for path in (one, other)]
    # As text, since a NaN (nothing was left to repair) is not equal to itself.
    assert list(map(json.dumps, rows[0])) == list(map(json.dumps, rows[1]))
    for name in ("samples.jsonl", "inspect.jsonl", "failures.jsonl"):
        assert (one / name).read_text() == (other / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_killed_ten_times_equals_one_that_never_was(tmp_path, name):
    """Killed with SIGKILL at random moments, wherever it is: in a step, an evaluation, a save."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finished(start(whole, name))
    moments = random.Random(name)
    seconds = [row["seconds/step"] for row in read_jsonl(whole / "metrics.jsonl")[1:]]
    a_while = 4 * statistics.median(seconds)
    for rows in sorted(moments.choices(range(CONFIG.steps - 4), k=10)):
        process = start(killed, name, doomed=True)
        while process.is_alive() and count_rows(killed) < rows:
            time.sleep(0.005)
        process.join(moments.uniform(0, a_while))
        assert process.is_alive(), "the run ended by itself"
        process.kill()
        process.join()
    assert finished(start(killed, name))
    assert_same_run(whole, killed)


def start(path: Path, name: str, *, doomed: bool = False) -> multiprocessing.Process:
    process = FORKS.Process(target=train, args=(path, name), kwargs={"doomed": doomed})
    process.start()
    return process


def finished(process: multiprocessing.Process) -> bool:
    process.join()
    return process.exitcode == 0


def count_rows(path: Path) -> int:
    try:
        return (path / "metrics.jsonl").read_text().count("\n")
    except FileNotFoundError:  # not begun; or begun anew, as a run without a checkpoint is
        return 0


@pytest.mark.slow
def test_a_run_of_the_command_line_that_is_terminated_goes_on_with_resume(tmp_path):
    """On the real laptop task, judged in a sandbox; SIGTERM at whatever moment it is."""

    def arguments(out: Path) -> list[str]:
        flags = (
            "--env vpd/MiniCode-v0 --sandbox local --model tiny --steps 8 --prompts-per-step 2 "
            "--group-size 2 --eval-every 4 --eval-problems 4 --samples-every 2 --threads 1 --quiet"
        )
        return ["train", "sdpo", *flags.split(), "--out", str(out)]

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(arguments(whole)) == 0
    command = [sys.executable, "-m", "vpd_agent.cli", *arguments(stopped)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and count_rows(stopped) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "SIGTERM: this step is finished and saved" in said
    steps = count_rows(stopped) - 1
    assert RunFolder.latest_checkpoint(stopped).name == f"{steps:06d}"
    assert steps < 8
    assert main([*arguments(stopped), "--resume"]) == 0
    assert_same_run(whole, stopped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_saves(tmp_path, number):
    before = signal.getsignal(number)
    whole = RunFolder(tmp_path / "whole")
    make_trainer(GRPO(), whole, steps=4, save_every=0).train()

    folder, said = RunFolder(tmp_path / "run"), []
    trainer = make_trainer(GRPO(), folder, steps=4, save_every=0)
    trainer.warn = said.append
    trainer.on_step = lambda row: row["step"] == 2 and os.kill(os.getpid(), number)
    assert trainer.train() == "interrupted"
    assert signal.getsignal(number) is before
    assert said[0].startswith(number.name)
    assert [row["step"] for row in folder.read("metrics.jsonl")] == [0, 1, 2]
    assert not (folder.path / "model").exists()

    resumed = resume(folder, GRPO(), steps=4, save_every=0)
    assert resumed.train() == "done"
    assert_same_run(whole.path, folder.path)


def test_a_signal_during_the_first_evaluation_loses_nothing_of_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(GRPO(), folder, steps=2)
    trainer.on_step = lambda row: os.kill(os.getpid(), signal.SIGINT)
    assert trainer.train() == "interrupted"
    assert trainer.step == 0
    assert trainer.failures
    assert trainer.successes
    resumed = resume(folder, GRPO(), steps=2)
    assert resumed.failures == trainer.failures
    assert resumed.successes == trainer.successes
    resumed.train()
    assert [row["step"] for row in resumed.out.read("metrics.jsonl")] == [0, 1, 2]


def test_a_second_signal_stops_at_once(tmp_path):
    folder = RunFolder(tmp_path / "run")

    class Impatient(Nearness):
        def judge(self, problem, answer):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("judged on")

    trainer = make_trainer(GRPO(), folder, environment=Impatient)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.step == 0


def test_a_run_outside_the_main_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []
    trainer = make_trainer(GRPO(), steps=1)
    trainer.on_step = lambda row: seen.append(signal.getsignal(signal.SIGINT))
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert seen == [before] * 2


def test_a_run_with_adapters_goes_on_from_the_original_model(tmp_path):
    """A checkpoint holds the adapters of student and teacher, not merged weights."""
    algorithm = SDPO(teacher="ema")
    whole = RunFolder(tmp_path / "whole")
    make_trainer(algorithm, whole, add_lora(small_policy(), rank=2), steps=4).train()

    folder = RunFolder(tmp_path / "run")
    make_trainer(algorithm, folder, add_lora(small_policy(), rank=2), steps=2).train()
    folder.close()
    folder = RunFolder(folder.path, resume=True)
    policy = add_lora(small_policy(), rank=2, seed=1)
    resumed = make_trainer(algorithm, folder, policy, steps=4)
    resumed.load(RunFolder.latest_checkpoint(folder.path))
    resumed.train()
    files = [run.path / "model/model.safetensors" for run in (whole, folder)]
    assert files[0].read_bytes() == files[1].read_bytes()

    with pytest.raises(ValueError, match="another model"):
        make_trainer(algorithm).load(RunFolder.latest_checkpoint(folder.path))


def test_a_judge_that_fails_stops_the_run_at_its_last_step_and_it_goes_on_from_there(tmp_path):
    whole = RunFolder(tmp_path / "whole")
    make_trainer(SDPO(), whole, steps=6, save_every=0).train()

    class Failing(Nearness):
        answers = 0

        def judge(self, problem, answer):
            Failing.answers += 1
            if Failing.answers > 3 * CONFIG.rollouts_per_step:
                raise SandboxError("the cages burnt down")
            return super().judge(problem, answer)

    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(SDPO(), folder, environment=Failing, steps=6, save_every=0)
    with pytest.raises(SandboxError, match="burnt down"):
        trainer.train()
    assert RunFolder.latest_checkpoint(folder.path).name == f"{trainer.step:06d}" == "000003"
    resume(folder, SDPO(), steps=6, save_every=0).train()
    assert_same_run(whole.path, folder.path)


def test_an_evaluation_that_fails_is_made_up_for_when_the_run_goes_on(tmp_path):
    whole = RunFolder(tmp_path / "whole")
    make_trainer(SDPO(), whole, steps=6, save_every=0).train()

    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(SDPO(), folder, steps=6, save_every=0)

    def fail(problem, answer):
        raise SandboxError("the cages burnt down")

    def break_evaluation(row):
        trainer.evaluation.env.judge = fail

    trainer.on_step = break_evaluation
    with pytest.raises(SandboxError, match="burnt down"):
        trainer.train()
    assert [row["step"] for row in folder.read("metrics.jsonl")] == [0, 1, 2, 3]
    resume(folder, SDPO(), steps=6, save_every=0).train()
    assert_same_run(whole.path, folder.path)


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_says_what_to_do(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(SDPO(), folder, steps=6)
    with file_size_limit() as limit:
        trainer.on_step = lambda row: row["step"] == 3 and limit(40_000)
        with pytest.raises(SaveError, match=r"File too large.*MiB are free.*--resume"):
            trainer.train()
    names = sorted(p.name for p in (folder.path / "checkpoints").iterdir())
    assert names == ["000002"]
    assert resume(folder, SDPO(), steps=6).train() == "done"


def test_a_full_disk_is_told_of_when_metrics_are_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left on device"):
        folder.append("metrics.jsonl", [{"step": 1}])


def test_a_folder_that_cannot_be_made_is_not_blamed_on_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"could not be made: .* Pass another --out") as raised:
        RunFolder(tmp_path / "file" / "run").append("metrics.jsonl", [{"step": 1}])
    assert "room" not in str(raised.value)


@contextmanager
def file_size_limit():
    """A function that makes longer files of this process fail as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def resume(folder: RunFolder, algorithm, **changes) -> Trainer:
    """A new trainer that goes on with a folder's run, with all weights read from there."""
    folder.close()
    again = RunFolder(folder.path, resume=True)
    trainer = make_trainer(algorithm, again, small_policy(seed=1), **changes)
    trainer.load(RunFolder.latest_checkpoint(folder.path))
    return trainer


def test_a_run_that_collapsed_is_as_collapsed_when_it_is_resumed(tmp_path):
    changes = {"steps": 40, "eval_every": 0, "min_entropy": 100.0, "collapse_patience": 1}
    changes |= {"stop_on_collapse": True, "samples_every": 0}
    folder = RunFolder(tmp_path / "run")
    assert make_trainer(GRPO(), folder, **changes).train() == "collapsed"
    before = folder.read("metrics.jsonl")
    resumed = resume(folder, GRPO(), **changes)
    assert resumed.train() == "collapsed"
    assert resumed.out.read("metrics.jsonl") == before


def test_every_random_state_goes_on_where_it_was(tmp_path):
    trainer = make_trainer(GRPO(), RunFolder(tmp_path / "run"))
    trainer.save()

    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    expected = draw()
    draw()
    trainer.load(RunFolder.latest_checkpoint(tmp_path / "run"))
    assert draw() == expected


def test_a_checkpoint_of_another_run_is_refused_before_any_work(tmp_path):
    folder = RunFolder(tmp_path / "run")
    make_trainer(SDPO(), folder).save()
    checkpoint = RunFolder.latest_checkpoint(folder.path)
    wide = make_trainer(SDPO(), policy=tiny_policy())
    other_words = small_policy()
    other_words.tokenizer.add_tokens(["more"])
    other_form = small_policy()
    other_form.tokenizer.chat_template += " "
    for trainer, reason in (
        (make_trainer(GRPO()), "is of 'sdpo', this run is of 'grpo'"),
        (wide, r"another model: \S*embed_tokens.weight is \(260, 16\)"),
        (
            make_trainer(SDPO(), policy=small_policy(dtype=torch.bfloat16)),
            "another model.*bfloat16",
        ),
        (make_trainer(SDPO(), policy=other_words), "another tokenizer"),
        (make_trainer(SDPO(), policy=other_form), "another tokenizer or chat template"),
        (make_trainer(SDPO(), environment=OtherLetters), "other problems to train on"),
    ):
        before = [p.clone() for p in trainer.policy.parameters()]
        with pytest.raises(ValueError, match=reason):
            trainer.load(checkpoint)
        after = trainer.policy.parameters()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_damaged_checkpoint_is_told_of(tmp_path):
    trainer = make_trainer(SDPO(), RunFolder(tmp_path / "run"))
    trainer.save()
    checkpoint = RunFolder.latest_checkpoint(tmp_path / "run")
    state = checkpoint / "trainer.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot be read .*Remove it"):
        trainer.load(checkpoint)
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no trainer.pt"):
        trainer.load(tmp_path)


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    trainer = make_trainer(SDPO(), RunFolder(tmp_path / "run"))
    trainer.save()
    path = RunFolder.latest_checkpoint(tmp_path / "run")
    saved = torch.load(path / "trainer.pt", weights_only=True)
    del saved["format"]  # as older versions wrote it
    torch.save(saved, path / "trainer.pt")
    with pytest.raises(ValueError, match=r"another version .* keeps other things"):
        trainer.load(path)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_config({})
    folder.append("metrics.jsonl", [{"step": 0}, {"step": 1}])
    folder.close()
    folder = RunFolder(tmp_path / "run", resume=True)
    make_trainer(GRPO(), folder, steps=1).train()
    assert [row["step"] for row in folder.read("metrics.jsonl")] == [0, 1]


def test_what_a_killed_process_left_half_done_is_put_right(tmp_path):
    """Half-written and half-removed folders go, and one set aside while its successor took its
    name comes back if that never did."""
    folder = RunFolder(tmp_path / "run")
    folder.save_best(lambda path: (path / "x").write_text("best"))
    folder.save_checkpoint(1, lambda path: (path / "x").write_text("1"))
    folder.close()
    run, checkpoints = tmp_path / "run", tmp_path / "run/checkpoints"
    (run / "best").rename(run / ".best.old")
    (run / ".best.new").mkdir()
    (checkpoints / ".000002.new").mkdir()
    (checkpoints / ".000000.gone").mkdir()
    RunFolder(run, resume=True)
    assert (run / "best/x").read_text() == "best"
    assert sorted(p.name for p in run.iterdir()) == [".lock", "best", "checkpoints"]
    assert [p.name for p in checkpoints.iterdir()] == ["000001"]


def test_a_run_killed_while_it_wrote_its_configuration_has_not_used_the_folder(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.4711").write_text('{"algor')
    folder = RunFolder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    folder.close()


def test_the_newest_checkpoints_are_kept_by_number(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for step in (8, 999_999, 1_000_000, 1_000_001):
        folder.save_checkpoint(step, lambda path: (path / "x").write_text(""), keep=3)
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == [
        "1000000", "1000001", "999999"]  # fmt: skip
    assert RunFolder.latest_checkpoint(tmp_path / "run").name == "1000001"


def test_rows_hold_any_text_a_model_can_write(tmp_path):
    folder = RunFolder(tmp_path / "run")
    rows = [{"step": 1, "text": "a\u2028b\x85c\x0bd\ud800e\n€"}, {"step": 2, "text": "ü"}]
    folder.append("samples.jsonl", rows)
    assert folder.read("samples.jsonl") == rows
    folder.truncate("samples.jsonl", lambda row: row["step"] <= 1)
    assert folder.read("samples.jsonl") == rows[:1]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_of_which_one_is_signaled_stop_and_go_on_together(tmp_path, sharding):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train_two(whole, sharding) == ["done", "done"]
    assert train_two(stopped, sharding, stop_at=3) == ["interrupted", "interrupted"]
    assert RunFolder.latest_checkpoint(stopped).name == "000003"
    alone = make_trainer(VPD(e_step_every=2, prior="fixed", teacher="ema"))
    alone.load(RunFolder.latest_checkpoint(stopped))
    assert alone.step == 3
    assert train_two(stopped, sharding) == ["done", "done"]
    assert_same_run(whole, stopped)


def train_two(path: Path, sharding: str, stop_at: int | None = None) -> list[str]:
    """Two processes train in one folder; the second is signaled after a step."""
    meeting = path.parent / f"{path.name}.{time.monotonic_ns()}"
    endings = FORKS.SimpleQueue()
    processes = [
        FORKS.Process(
            target=train_as_one_of_two, args=(rank, path, sharding, meeting, stop_at, endings)
        )
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    assert all(map(finished, processes))
    return [endings.get(), endings.get()]


def train_as_one_of_two(rank, path: Path, sharding, meeting: Path, stop_at, endings) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    processes = Processes()
    folder = RunFolder(path, resume=(path / "config.json").exists(), processes=processes)
    folder.write_config({})
    config = replace(
        CONFIG, success_reward=0.9, prompts_per_step=4, steps=6, save_every=0, sharding=sharding
    )
    trainer = Trainer(
        small_policy(),
        VPD(e_step_every=2, prior="fixed", teacher="ema"),
        StopAfter.vector(config.rollouts_per_step // 2),
        config,
        evaluation=Nearness.vector(3, split="test"),
        processes=processes,
        out=folder,
    )
    if stop_at is not None and rank == 1:
        StopAfter.batches = stop_at
    checkpoint = RunFolder.latest_checkpoint(path)
    if checkpoint is not None:
        trainer.load(checkpoint)
    rows, observe = [], trainer.monitor.observe
    trainer.monitor.observe = lambda row: rows.append(row) or observe(row)
    endings.put(trainer.train())
    one, other = processes.gather(json.dumps(lasting(rows)))
    assert one == other
    folder.close()
    processes.leave()


class StopAfter(Nearness):
    """Signals its own process with the last of so many batches."""

    batches = 0

    def judge_batch(self, *batch):
        StopAfter.batches -= 1
        if StopAfter.batches == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().judge_batch(*batch)


def test_a_run_goes_on_with_other_processes_and_says_that_chance_is_another(tmp_path):
    folder, said = RunFolder(tmp_path / "run"), []
    trainer = make_trainer(GRPO(), folder)
    trainer.save()
    state = RunFolder.latest_checkpoint(folder.path) / "trainer.pt"
    saved = torch.load(state, weights_only=True)
    torch.save(saved | {"processes": saved["processes"] * 2}, state)
    trainer.warn = said.append
    trainer.load(state.parent)
    assert said == ["This run had 2 processes and has 1 now: it goes on with other random numbers."]


FORKS = multiprocessing.get_context("forkserver")  # one process imports torch, its forks run
FORKS.set_forkserver_preload(
    ["vpd_agent.train.trainer", "transformers.models.qwen3.modeling_qwen3"]
)
