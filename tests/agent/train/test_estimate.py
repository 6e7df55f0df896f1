"""What a run takes: the formulas beside real models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.ops.chunked_logits import CHUNK_ELEMENTS
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.estimate import (
    H100,
    HALF,
    KNOWN_SHAPES,
    ModelShape,
    Workload,
    activation_bytes,
    logits_bytes,
    memory,
    seconds,
    shape_of,
)

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SHAPE = ModelShape(2, 64, 96, 4, 2, 24, 300, tied=True, context=4096, small=48)
CONFIG = TrainConfig(prompts_per_step=4, group_size=2, max_response_tokens=30, micro_batch_size=1)
WORK = Workload(GRPO(), CONFIG, 20, 50, prompt=10, teacher_prompt=25)


def model_of(family: str, **changes: object) -> torch.nn.Module:
    config = AutoConfig.for_model(family, **{**SMALL, **changes})
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": False, "attention_bias": True}),
        pytest.param("qwen2", {"head_dim": 16}, marks=pytest.mark.slow),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        pytest.param("mistral", {}, marks=pytest.mark.slow),
        pytest.param("olmo2", {"head_dim": 16}, marks=pytest.mark.slow),
        ("olmo3", {"head_dim": 16}),
    ],
)
def test_the_formula_counts_every_weight_of_a_real_model(family, changes):
    model = model_of(family, **changes)
    shape = shape_of(model.config)
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_a_family_with_other_layers_is_not_counted():
    assert shape_of(AutoConfig.for_model("gpt2")) is None
    assert shape_of(AutoConfig.for_model("qwen3_moe")) is None


@pytest.mark.parametrize(
    ("name", "billions"),  # as their model cards round them
    [
        ("Qwen/Qwen3-1.7B", 1.7),
        ("Qwen/Qwen3-4B-Base", 4.0),
        ("Qwen/Qwen3-8B", 8.2),
        ("allenai/Olmo-3-7B-Instruct", 7.3),
    ],
)
def test_the_shapes_of_the_recipes_have_the_published_size(name, billions):
    assert KNOWN_SHAPES[name].parameters / 1e9 == pytest.approx(billions, abs=0.05)


def kept_for_backward(model: torch.nn.Module, tokens: int, *, autocast: bool) -> int:
    """Bytes that autograd keeps of a forward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 200, (1, tokens), generator=torch.Generator().manual_seed(0))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)],
)
def test_activations_are_what_autograd_keeps_within_a_sixth(dtype, autocast):
    policy = tiny_policy()
    body = policy.model.to(dtype).base_model
    shape = shape_of(policy.model.config)
    assert shape is not None
    # Between two lengths, so that what does not grow with the length is left out.
    short, long = (kept_for_backward(body, n, autocast=autocast) for n in (128, 256))
    estimate = activation_bytes(shape, dtype.itemsize, autocast=autocast)
    assert estimate == pytest.approx((long - short) / 128, rel=1 / 6)


def test_the_memory_of_a_small_model_by_hand():
    n = SHAPE.parameters
    cost = memory(SHAPE, WORK)
    assert cost.always == {"weights": 4 * n, "gradients": 4 * n, "optimizer": 8 * n}
    # One row at a time of 20 + 30 tokens, float32; 3 tables of 30 x 300 logits without a teacher.
    per_token = 2 * 4 * (6 * 64 + 4 * (96 + 48) + 4 * 96)
    assert cost.training == {"activations": 50 * per_token, "logits": 3 * 30 * 300 * 4}
    # 8 answers of 30 tokens, 4 prompts of 20; keys and values of 48 elements in each of 2 layers.
    # Of 300 tokens each answer has logits, log-probabilities, probabilities and, in 64 bits, sums.
    assert cost.sampling == {
        "keys and values": (8 * 30 + 4 * 20) * 2 * 2 * 48 * 4,
        "distributions": 8 * 300 * (3 * 4 + 8),
    }
    assert cost.while_training == 16 * n + sum(cost.training.values())
    assert cost.while_sampling == 16 * n + sum(cost.sampling.values())


def test_fewer_answers_are_sampled_at_once_where_only_so_many_places_are_allowed():
    """As many as fit of 20 + 30 tokens, and at least one."""
    for places, rows in ((None, 8), (400, 8), (399, 7), (100, 2), (1, 1)):
        work = replace(WORK, config=replace(CONFIG, sampling_tokens=places))
        assert work.sampled_rows == rows
        prompts = -(-rows // CONFIG.group_size)
        elements = (rows * 30 + prompts * 20) * 2 * 2 * 48
        assert memory(SHAPE, work).sampling["keys and values"] == 4 * elements


def test_layers_with_a_window_cache_no_more_than_it():
    shape = replace(SHAPE, layers=4, windowed=3, window=10)
    assert shape.cached(8) == 4 * 2 * 48 * 8
    assert shape.cached(30) == 2 * 48 * (30 + 3 * 10)
    config = AutoConfig.for_model("olmo3", num_hidden_layers=8, sliding_window=10)
    found = shape_of(config)
    assert found is not None
    assert (found.windowed, found.window) == (6, 10)  # every fourth layer looks at everything


def test_copies_of_the_weights_are_those_of_the_algorithm():
    n = SHAPE.parameters

    def copies(algorithm, **changes):
        always = memory(SHAPE, replace(WORK, algorithm=algorithm, **changes)).always
        return {k: v / n for k, v in always.items() if k not in ("weights", "gradients")}

    assert copies(VPD(teacher="live")) == {"optimizer": 8}
    assert copies(VPD(teacher="live", e_step_optimizer="own"))["optimizer"] == 16
    assert copies(SDPO(teacher="ema"))["teacher (moving average)"] == 4
    # A moving average of bfloat16 weights is kept in float32 as well.
    assert copies(SDPO(teacher="ema"), weight_bytes=HALF)["teacher (moving average)"] == 6
    assert copies(SDPO(teacher="frozen"))["teacher (initial weights)"] == 4
    assert copies(GRPO(kl_to_reference=0.1))["reference"] == 4
    overlapping = replace(CONFIG, overlap=True)
    assert copies(GRPO(), config=overlapping)["the sampler's copy"] == 4


def test_sharding_shares_out_what_is_kept_and_gathers_all_to_sample():
    alone = memory(SHAPE, WORK)
    config = replace(CONFIG, sharding="fsdp")
    shared = memory(SHAPE, replace(WORK, config=config, processes=4))
    for name, size in alone.always.items():
        assert shared.always[name] == size / 4
    assert shared.sampling["gathered weights"] == 4 * SHAPE.parameters
    assert shared.sampling["keys and values"] == alone.sampling["keys and values"] / 4


def test_an_adapter_is_all_that_is_trained():
    cost = memory(SHAPE, replace(WORK, algorithm=SDPO(teacher="ema"), lora_rank=2))
    # Rank 2, in each of 2 layers: q, o (64 and 96), k, v (64 and 48), and three of the MLP.
    adapter = 2 * 2 * (2 * (64 + 96) + 2 * (64 + 48) + 3 * (64 + 96))
    assert SHAPE.adapter(2) == adapter
    assert cost.always["gradients"] == 4 * adapter
    assert cost.always["teacher (moving average)"] == 4 * adapter


def test_gradient_checkpointing_keeps_the_inputs_of_layers_and_one_layer():
    shape = replace(SHAPE, layers=10)
    work = replace(WORK, config=replace(CONFIG, gradient_checkpointing=True))
    every = memory(shape, WORK).training["activations"]
    kept = memory(shape, work).training["activations"]
    assert kept == pytest.approx(50 * 10 * 64 * 4 + every / 10)


def test_logits_of_many_tokens_take_two_chunks_and_the_heads_gradient():
    shape = KNOWN_SHAPES["Qwen/Qwen3-8B"]
    head = shape.vocabulary * shape.hidden
    size = logits_bytes(shape, 8192, has_teacher=True)
    assert size == 4 * (2 * CHUNK_ELEMENTS + head + 8192 * shape.hidden)


def test_micro_batches_are_limited_by_rows_tokens_and_mini_batches():
    def rows(**changes):
        return replace(WORK, config=replace(CONFIG, **changes)).micro_batch_rows

    assert rows(micro_batch_size=None) == 8
    assert rows(micro_batch_size=3) == 3
    assert rows(micro_batch_size=None, mini_batches=4) == 2
    assert rows(micro_batch_size=None, micro_batch_tokens=150) == 3  # of 20 + 30 tokens
    assert rows(micro_batch_size=None, micro_batch_tokens=10) == 1


def test_operations_of_a_forward_pass_by_hand():
    # Two per weight of a matrix and token: q, o: 64 x 96; k, v: 64 x 48; MLP: 3 of 64 x 96.
    matrices = 2 * (2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 96)
    attention = 2 * 2 * 96 * 40**2
    head = 2 * 300 * 64 * 30
    assert SHAPE.forward_flops(10, 30) == 2 * matrices * 40 + attention + head


def test_the_time_of_training_counts_every_pass():
    """GRPO: one loss, forward and twice as much backward. VPD with F = 2: one loss and every second
    step another, which measures first; each with a forward pass of the teacher."""
    speed = H100.full_flops * H100.used_flops
    student, taught = SHAPE.forward_flops(10, 30), SHAPE.forward_flops(25, 30)
    assert seconds(SHAPE, WORK, 30)["training"] == pytest.approx(8 * 3 * student / speed)
    vpd = replace(WORK, algorithm=VPD(e_step_every=2))
    expected = 8 * (1.5 * (3 * student + taught) + 0.5 * taught) / speed
    assert seconds(SHAPE, vpd, 30)["training"] == pytest.approx(expected)


def test_decoding_takes_at_least_the_time_to_read_the_weights():
    shape = KNOWN_SHAPES["Qwen/Qwen3-8B"]
    work = replace(WORK, weight_bytes=HALF)
    reading = 100 * (shape.matrices + shape.head) * HALF / (H100.bandwidth * H100.used_bandwidth)
    taken = seconds(shape, work, 100)["sampling"]
    assert reading < taken < 1.2 * reading  # few rows, short prompts: little besides
    assert "sampling" not in seconds(shape, replace(work, engine="http://there"), 100)


def test_twice_as_many_processes_train_in_half_the_time():
    one, two = (seconds(SHAPE, replace(WORK, processes=n), 30) for n in (1, 2))
    assert two["training"] == pytest.approx(one["training"] / 2)
