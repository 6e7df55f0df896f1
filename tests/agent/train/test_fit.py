"""What nobody has given is chosen by the model's context and the memory at hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent.helpers import small_policy
from vpd_agent import TrainConfig, make_run
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.cli.main import main
from vpd_agent.train import fit as fitting
from vpd_agent.train.dry_run import dry_run
from vpd_agent.train.estimate import FULL, HALF, KNOWN_SHAPES, ModelShape, Workload, memory
from vpd_agent.train.fit import LEAST_RESPONSE, LORA_RANK, USABLE, fit
from vpd_agent.train.options import TrainOptions
from vpd_agent.train.presets import SCIENCE
from vpd_agent.train.run import make_plan

QWEN = "Qwen/Qwen3-1.7B"
OPTIONS = TrainOptions(
    env="vpd/SciKnowEval-v0", model=QWEN, out="runs/none", preset="science", device="cuda"
)
CONFIG = SCIENCE.config("vpd")
GB, OF_VPD = 1e9, VPD()


def fitted(gigabytes, algorithm=OF_VPD, options=OPTIONS, config=CONFIG, given=(), processes=1):
    return fit(algorithm, options, config, given, gigabytes * GB, processes, fetch=False)


def workload(chosen, algorithm, shape: ModelShape, processes=1) -> Workload:
    """What a run with these options does, put together anew."""
    options, config = chosen.options, chosen.config
    room = shape.context - config.max_response_tokens
    prompt = min(config.max_prompt_tokens, room)
    teacher_prompt = min(config.max_teacher_prompt_tokens, room)
    size = HALF if options.dtype == "bfloat16" else FULL
    return Workload(
        algorithm, config, prompt, teacher_prompt, prompt, teacher_prompt, size,
        autocast=options.precision == "bfloat16", processes=processes,
        lora_rank=options.lora_rank,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", [VPD(), SDPO(), GRPO()], ids=lambda a: a.name)
@pytest.mark.parametrize("gigabytes", [12, 24, 48, 80, 141])
def test_what_is_chosen_takes_no_more_than_there_is(algorithm, gigabytes):
    chosen = fitted(gigabytes, algorithm, config=SCIENCE.config(algorithm.name))
    cost = memory(KNOWN_SHAPES[QWEN], workload(chosen, algorithm, KNOWN_SHAPES[QWEN]))
    assert max(cost.while_training, cost.while_sampling) <= USABLE * gigabytes * GB
    told = [float(size) for size in re.findall(r"takes ([\d.]+) GB while it trains", chosen.told)]
    assert told == [round(cost.while_training / GB, 1)]


def test_an_adapter_is_chosen_where_all_weights_are_too_many():
    """Weights, gradients and AdamW's two moments are four times 1.72 billion numbers."""
    always = 4 * KNOWN_SHAPES[QWEN].parameters * FULL / GB
    large, small = fitted(200, GRPO()), fitted(always, GRPO())
    assert (large.options.dtype, large.options.precision) == ("float32", "bfloat16")
    assert large.options.lora_rank is None
    assert large.config.learning_rate == CONFIG.learning_rate
    assert small.options.lora_rank == LORA_RANK
    assert small.options.dtype == "bfloat16"
    assert small.config.learning_rate == pytest.approx(10 * CONFIG.learning_rate)


def test_several_processes_share_the_weights_before_an_adapter_is_chosen():
    always = 4 * KNOWN_SHAPES[QWEN].parameters * FULL / GB
    assert fitted(always, GRPO()).options.lora_rank is not None
    shared = fitted(always, GRPO(), processes=4)
    assert shared.options.lora_rank is None
    assert shared.config.sharding == "fsdp"


def test_what_was_given_stays_as_it_is():
    given = {"dtype": "bfloat16"}, {"max_response_tokens": 3000, "micro_batch_size": 2}
    options, config = replace(OPTIONS, **given[0]), replace(CONFIG, **given[1])
    chosen = fitted(60, options=options, config=config, given={*given[0], *given[1]})
    assert chosen.options.dtype == "bfloat16"
    assert chosen.options.lora_rank is None
    assert (chosen.config.max_response_tokens, chosen.config.micro_batch_size) == (3000, 2)
    assert chosen.config.micro_batch_tokens is None


def test_answers_get_shorter_only_where_nothing_else_helps():
    least = next(
        gigabytes for gigabytes in range(1, 80)
        if _fits(gigabytes) and fitted(gigabytes).config.max_response_tokens == 8192
    )  # fmt: skip
    shorter = fitted(least - 1)
    assert LEAST_RESPONSE <= shorter.config.max_response_tokens < 8192
    assert shorter.options.lora_rank is not None
    assert shorter.config.gradient_checkpointing


def _fits(gigabytes) -> bool:
    try:
        return fitted(gigabytes) is not None
    except ValueError:
        return False


def test_the_memory_that_an_error_asks_for_is_enough():
    with pytest.raises(ValueError, match=r"does not fit into 3\.0 GB: vpd with .*--no-fit") as told:
        fitted(3)
    asked = float(re.search(r"takes ([\d.]+) GB at least", str(told.value))[1])
    assert fitted(asked + 0.1).config.max_response_tokens == LEAST_RESPONSE
    with pytest.raises(ValueError, match="does not fit"):
        fitted(asked - 0.2)


def test_without_peft_no_adapter_is_chosen(monkeypatch):
    monkeypatch.setattr(fitting, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--lora-rank\) would take less, and needs peft: .*pip"):
        fitted(24)


@pytest.mark.parametrize("algorithm", [VPD(), GRPO()], ids=lambda a: a.name)
def test_prompt_and_answer_are_within_the_context(algorithm):
    """The presets' answers alone have as many tokens as SmolLM2's context, 8192."""
    options = replace(OPTIONS, model="smollm2", device="cpu")
    config = SCIENCE.config(algorithm.name)
    assert config.max_response_tokens == KNOWN_SHAPES["smollm2"].context == 8192
    chosen = fitted(20, algorithm, options, config).config
    assert chosen.max_response_tokens == 8192 // 2
    assert chosen.max_teacher_prompt_tokens == 8192 // 2
    assert chosen.max_prompt_tokens == (8192 // 2 if algorithm.teacher is None else 8192 // 4)
    given = replace(config, max_response_tokens=1192)
    chosen = fitted(20, algorithm, options, given, given={"max_response_tokens"}).config
    assert chosen.max_response_tokens == 1192
    if algorithm.teacher is None:
        assert chosen.max_prompt_tokens == config.max_prompt_tokens  # 4096 + 1192 fit
    else:
        assert chosen.max_teacher_prompt_tokens == 7000


def test_a_shape_that_is_not_counted_is_left_alone():
    assert fitted(24, options=replace(OPTIONS, model="openai-community/gpt2")) is None


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_policy().save(folder)
    return str(folder)


SHORT = {
    "steps": 1,
    "prompts_per_step": 1,
    "group_size": 2,
    "mini_batches": 1,
    "max_response_tokens": 4,
    "eval_every": 0,
}


def run_of(model, out, steps=1, **options):
    run = {"env": "vpd/MiniArithmetic-v0", "preset": "science", "quiet": True} | options
    return make_run("grpo", model=model, out=out, config=SHORT | {"steps": steps}, **run)


def saved(out) -> dict:
    return json.loads((out / "config.json").read_text())["config"]


def test_a_run_says_and_saves_what_was_chosen_and_goes_on_with_it(model, tmp_path, capsys):
    out = tmp_path / "run"
    with run_of(model, out, memory_gb=1.0) as trainer:
        trainer.train()
    assert "Chosen for 1.0 GB" in " ".join(capsys.readouterr().err.split())
    chosen = saved(out)
    assert chosen["micro_batch_size"] is None
    assert chosen["micro_batch_tokens"] is not None
    assert chosen["max_response_tokens"] == SHORT["max_response_tokens"]
    with run_of(model, out, steps=2, memory_gb=0.1, resume=True) as trainer:
        trainer.train()
    assert "resuming with micro_batch" not in capsys.readouterr().err
    assert saved(out) == chosen | {"steps": 2}


@pytest.mark.parametrize("options", [{"fit": False}, {"preset": "tiny"}])
def test_nothing_is_chosen_of_a_run_that_is_not_to_be_fitted(model, tmp_path, options, capsys):
    with run_of(model, tmp_path / "run", memory_gb=1e-3, **options) as trainer:
        assert trainer.config.sampling_tokens is None
    assert "Chosen for" not in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--memory-gb", "8", "--dry-run")])
def test_a_tiny_model_trains_with_the_preset_of_real_ones_too(more, tmp_path, capsys):
    """Its name is none of a folder whose shape could be looked up."""
    given = ("--env", "vpd/MiniChoice-v0", "--model", "tiny", "--preset", "science")
    small = ("--steps", "1", "--prompts-per-step", "4", "--group-size", "2", "--eval-every", "0")
    lengths = ("--max-prompt-tokens", "64", "--max-response-tokens", "8")
    code = main(["train", "grpo", *given, *small, *lengths, "--out", str(tmp_path / "run"), *more])
    assert code == 0, capsys.readouterr().err


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(model, tmp_path):
    with (
        pytest.raises(ValueError, match=r"does not fit into 0\.0 GB: grpo"),
        run_of(model, tmp_path / "run", memory_gb=1e-3),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_of_a_whole_configuration_what_differs_from_its_defaults_is_given(tmp_path):
    given = TrainConfig(max_response_tokens=512, learning_rate=2e-6)
    plan = make_plan(
        "grpo", env="vpd/SciKnowEval-v0", model=QWEN, out=tmp_path, config=given, device="cuda"
    )
    chosen, _ = plan.fitted(24 * GB, 1, fetch=False)
    assert chosen.options.lora_rank is not None
    changed = {k for k, v in vars(chosen.config).items() if v != getattr(given, k)}
    assert changed <= {"micro_batch_tokens", "sampling_tokens", "gradient_checkpointing"}
    assert "micro_batch_tokens" in changed


def test_a_flag_is_over_what_would_be_chosen(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--env", "vpd/SciKnowEval-v0", "--model", QWEN, "--dry-run", "--memory-gb", "24"]
    assert main(["train", "vpd", *given]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "fitted Chosen for 24.0 GB and a context of 40960 tokens: --dtype bfloat16" in told
    assert "folder runs/vpd-SciKnowEval-v0-Qwen3-1.7B" in told
    given += ["--dtype=float32", "--micro-batch-size", "1", "--max-response-tokens", "256"]
    assert main(["train", "vpd", *given, "--max-teacher-prompt-tokens", "512"]) == 2
    assert "does not fit into 24.0 GB" in " ".join(capsys.readouterr().err.split())


def test_a_run_without_a_folder_has_its_usual_one_and_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--env", "vpd/MiniArithmetic-v0", "--model", "tiny", "--quiet", "--eval-every", "0"]
    given += ["--prompts-per-step", "1", "--group-size", "2", "--save-every", "1"]
    assert main(["train", "grpo", *given, "--steps", "1"]) == 0
    assert main(["train", "grpo", *given, "--steps", "2", "--resume"]) == 0
    metrics = tmp_path / "runs/grpo-MiniArithmetic-v0-tiny/metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]


def test_a_dry_run_without_a_gpu_is_fitted_where_it_is_told_the_memory(tmp_path):
    plan = make_plan("grpo", env="vpd/SciKnowEval-v0", model=QWEN, out=tmp_path, device="cpu")
    assert "fitted" not in dry_run(plan).facts
    told = make_plan("grpo", env="vpd/SciKnowEval-v0", model=QWEN, out=tmp_path, memory_gb=24)
    assert "--lora-rank" in dry_run(told).facts["fitted"]


def test_a_size_of_memory_that_is_none_is_refused(capsys):
    given = ["--env", "vpd/SciKnowEval-v0", "--model", QWEN, "--dry-run", "--memory-gb", "-1"]
    assert main(["train", "vpd", *given]) == 2
    assert "--memory-gb must be positive, got -1.0" in " ".join(capsys.readouterr().err.split())


def test_the_guide_says_what_is_chosen():
    text = " ".join((Path(__file__).parents[3] / "docs/guide/training.md").read_text().split())
    told = re.search(
        r"24 GB get an adapter of rank (\d+) .*? by estimate ([\d.]+) GB while it trains and "
        r"([\d.]+) GB while it samples; 80 GB get all weights in float32",
        text,
    )
    chosen = fitted(24)
    assert int(told[1]) == chosen.options.lora_rank
    assert f"takes {told[2]} GB while it trains and {told[3]} GB while it samples" in chosen.told
    assert fitted(80).options.dtype == "float32"
    assert fitted(80).options.lora_rank is None
