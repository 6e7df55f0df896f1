"""The loop with a real pretrained model: its chat template, its BPE tokenizer, real feedback.

Run by .ci/smollm2, which has the model fetched first.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from vpd_agent.cli.main import main
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model import smollm2
from vpd_agent.model.policy import Policy
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.run_folder import RunFolder
from vpd_agent.train.estimate import KNOWN_SHAPES, shape_of
from vpd_agent.train.run import make_run

pytestmark = pytest.mark.smollm2

ENVIRONMENT = "vpd/ReasoningGym-v0"
# Whose scorer gives a share to what is nearly right, so that answers of a group differ. The model
# writes no tags around its answers.
OPTIONS = (
    "dataset=letter_counting", 'parameters={"min_words": 2, "max_words": 3}', "extract=number",
)  # fmt: skip
CONFIG = {
    "steps": 3,
    "prompts_per_step": 2,
    "group_size": 3,
    "mini_batches": 1,
    "micro_batch_size": 3,
    "learning_rate": 1e-5,
    "warmup_steps": 0,
    "max_prompt_tokens": 128,
    "max_teacher_prompt_tokens": 256,
    "max_response_tokens": 12,
    "temperature": 0.7,
    "eval_every": 0,
    "save_every": 2,
    "samples_every": 1,
    "inspect_every": 0,
}


def train(algorithm: str, out: Path, copy: Path) -> None:
    """The run from its beginning to its end; and a copy of its folder as it would be left if the
    run was killed in its third step."""
    run = {"env": ENVIRONMENT, "set": OPTIONS, "model": "smollm2", "out": out, "quiet": True}
    with make_run(algorithm, config=CONFIG, **run) as trainer:
        log = trainer.on_step

        def on_step(row: dict[str, Any]) -> None:
            if log is not None:
                log(row)
            if row["step"] == 3:
                shutil.copytree(out, copy, copy_function=copied)

        trainer.on_step = on_step
        assert trainer.train() == "done"


def copied(source: str, copy: str) -> None:
    """Files of a gigabyte, which nobody changes, get another name only."""
    if Path(source).stat().st_size > 1 << 20:
        os.link(source, copy)
    else:
        shutil.copy2(source, copy)


def resume(algorithm: str, out: Path) -> None:
    """The same run as a person types it, with --resume."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in CONFIG.items()]
    run = ["--env", ENVIRONMENT, "--set", *OPTIONS, "--model", "smollm2", "--out", str(out)]
    assert main(["train", algorithm, *run, *flags, "--quiet", "--resume"]) == 0


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics without what a clock says."""
    return {
        k: v
        for k, v in row.items()
        if not k.startswith(("seconds/", "idle/")) and "per_second" not in k
    }


@pytest.mark.parametrize("algorithm", ["vpd", "grpo"])
def test_three_steps_train_it_and_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path, capsys, algorithm
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(algorithm, whole, killed)
    rows, samples = read_jsonl(whole / "metrics.jsonl"), read_jsonl(whole / "samples.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert_gradients(algorithm, rows)
    assert_texts(algorithm, samples)
    weights = load_file(whole / "model" / "model.safetensors")
    assert_changed(weights)

    checkpoint = RunFolder.latest_checkpoint(killed)
    assert checkpoint is not None
    assert int(checkpoint.name) == 2
    assert not (killed / "model").exists()
    capsys.readouterr()
    resume(algorithm, killed)
    assert "Warning" not in capsys.readouterr().err  # it is the same command
    again = read_jsonl(killed / "metrics.jsonl")
    assert [*map(lasting, again)] == [*map(lasting, rows)]
    assert read_jsonl(killed / "samples.jsonl") == samples
    resumed = load_file(killed / "model" / "model.safetensors")
    assert all(weight.equal(resumed[name]) for name, weight in weights.items())


def assert_gradients(algorithm: str, rows: list[dict[str, Any]]) -> None:
    """Every gradient is finite. That of a distillation is never 0, that of GRPO only where all
    answers of each group are equally good."""
    for row in rows:
        norms = {name: value for name, value in row.items() if name.endswith("/grad_norm")}
        assert all(map(math.isfinite, norms.values()))
        if algorithm == "vpd":
            assert norms["m_step/grad_norm"] > 0
            assert row["m_step/divergence"] > 0
        else:
            assert (norms["policy/grad_norm"] > 0) == (row["groups_with_signal"] > 0)
    if algorithm == "grpo":
        assert any(row["groups_with_signal"] > 0 for row in rows)
    else:
        assert any(row.get("e_step/grad_norm", 0) > 0 for row in rows)


def assert_texts(algorithm: str, samples: list[dict[str, Any]]) -> None:
    """Prompts in the model's own form, answers as text, the judge's feedback for the teacher."""
    assert samples
    for sample in samples:
        prompt, answer = sample["prompt"], sample["answer"]
        assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert "<|im_start|>user\n" in prompt
        assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert "<|im_" not in answer
        assert not {"Ġ", "Ċ"} & set(answer)  # byte-level BPE's letters for a space and a line's end
        assert sample["response"].startswith(answer)
        assert sample["feedback"]
        if algorithm == "vpd" and sample["teacher_prompt"]:
            assert sample["feedback"] in sample["teacher_prompt"]
            assert sample["teacher_prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert any(" " in sample["answer"].strip() for sample in samples)
    if algorithm == "vpd":
        assert any(sample["teacher_prompt"] for sample in samples)


def assert_changed(weights: dict[str, Tensor]) -> None:
    """Matrices of the first and the last layer, and the embedding, have moved; none is NaN."""
    before = load_file(smollm2.model_folder() / "model.safetensors")
    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.29.mlp.down_proj.weight",
    ):
        assert not weights[name].equal(before[name]), name
    assert all(weight.isfinite().all() for weight in weights.values())


def test_it_is_the_published_model():
    """By its size, and by an answer that noise in the weights would not give."""
    initial = Policy.load("smollm2")
    assert sum(weight.numel() for weight in initial.parameters()) == 134_515_008
    assert shape_of(initial.model.config) == KNOWN_SHAPES["smollm2"]
    prompt = initial.encode([{"role": "user", "content": "What is the capital of France?"}])
    (answer,) = HFEngine(initial).generate([prompt], max_tokens=12, temperature=0.01)
    assert "Paris" in initial.tokenizer.decode(answer.ids)
