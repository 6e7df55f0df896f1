"""What a run takes: memory of each process, time of each step and room on the disk, from the
model's shape alone.

The formulas count the dense layers of decoders of the Llama family (Llama, Mistral, Qwen2, Qwen3,
OLMo 2 and 3). N: weights; L: layers; h, i, q, k: widths of the residual stream, of the MLP, of all
queries, and of all keys (as wide as all values); V: vocabulary. Lengths are in tokens, memory is in
bytes, time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vpd_agent.algorithms.base import Algorithm, Step
from vpd_agent.ops.chunked_logits import CHUNK_ELEMENTS, fits
from vpd_agent.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "olmo3")
FULL, HALF = 4, 2  # bytes of a number in float32 and in bfloat16
SAMPLED_AT_ONCE = 512  # rows that `HFEngine` decodes side by side
DRAWN_BYTES = 3 * FULL + 8  # of a token that may be drawn: logit, log and probability, their sum
VLLM_SHARE = 0.3  # of a GPU's memory, that `VLLMEngine` takes
STEPS_LOOKED_AT = 1000  # of a run, to count the losses of an average step
# Copies of weights, which a checkpoint has as well.
EMA_TEACHER, INITIAL_TEACHER = "teacher (moving average)", "teacher (initial weights)"
REFERENCE = "reference"
IN_CHECKPOINTS = (EMA_TEACHER, INITIAL_TEACHER, REFERENCE)


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model, in numbers of elements.

    tied: whether input and output embedding are the same weights.
    context: the most positions that the model was made for.
    small: weights of a layer that are in none of its matrices: biases, norms of queries and keys.
    windowed: layers whose tokens attend to `window` tokens only.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    context: int
    small: int = 0
    windowed: int = 0
    window: int = 0

    @property
    def queries(self) -> int:
        """q: the width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """k: the width of all keys."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> int:
        """Weights of the layers' matrices: L · (2hq + 2hk + 3hi)."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Weights of the output embedding: V · h."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """N: the matrices, one or two embeddings, two norms a layer and one behind them."""
        embeddings = self.head if self.tied else 2 * self.head
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrices + embeddings + norms + self.layers * self.small

    def adapter(self, rank: int) -> int:
        """Weights of LoRA's adapters beside all matrices: rank · (inputs + outputs) of each."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))

    def cached(self, tokens: float) -> float:
        """Elements of the keys and values of so many tokens that follow each other."""
        in_windows = self.windowed * min(tokens, self.window)
        return 2 * self.keys * ((self.layers - self.windowed) * tokens + in_windows)

    def forward_flops(self, prompt: float, response: float) -> float:
        """Operations of one forward pass over a prompt and its response.

        Two per weight of a matrix and token, in the head only for the response; and 2Lq·T² for T
        tokens that attend to half of T on average (scores and sums of values, two each), as if no
        layer had a window.
        """
        tokens = prompt + response
        attention = 2 * self.layers * self.queries * tokens**2
        return 2 * self.matrices * tokens + attention + 2 * self.head * response


# Of the published models' config.json.
KNOWN_SHAPES = {
    "smollm2": ModelShape(30, 576, 1536, 9, 3, 64, 49152, True, 8192),
    "Qwen/Qwen3-1.7B": ModelShape(28, 2048, 6144, 16, 8, 128, 151936, True, 40960, small=256),
    "Qwen/Qwen3-4B-Base": ModelShape(36, 2560, 9728, 32, 8, 128, 151936, True, 32768, small=256),
    "Qwen/Qwen3-8B": ModelShape(36, 4096, 12288, 32, 8, 128, 151936, False, 40960, small=256),
    "allenai/Olmo-3-7B-Instruct": ModelShape(
        *(32, 4096, 11008, 32, 32, 128, 100278, False, 65536),
        **{"small": 8192, "windowed": 24, "window": 4096},
    ),
}


def shape_of(config: PretrainedConfig) -> ModelShape | None:
    """The shape that a model's configuration describes; None for a family that is not counted."""
    if config.model_type not in FAMILIES:
        return None
    heads = config.num_attention_heads
    shape = ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        context=config.max_position_embeddings,
        windowed=(getattr(config, "layer_types", None) or []).count("sliding_attention"),
        window=getattr(config, "sliding_window", None) or 0,
    )
    q, k, h = shape.queries, shape.keys, shape.hidden
    small = {"qwen2": q + 2 * k, "qwen3": 2 * shape.head_dim}.get(config.model_type, 0)
    small += q + k if config.model_type in ("olmo2", "olmo3") else 0
    small += q + 2 * k + h if getattr(config, "attention_bias", False) else 0
    small += 2 * shape.intermediate + h if getattr(config, "mlp_bias", False) else 0
    return replace(shape, small=small)


@dataclass(frozen=True)
class Device:
    """An accelerator by its data sheet: operations and bytes per second, what share of each a run
    is taken to get, and bytes of memory."""

    name: str
    half_flops: float  # bfloat16, dense
    full_flops: float  # float32
    bandwidth: float
    memory: float
    used_flops: float = 0.4
    used_bandwidth: float = 0.6

    def describe(self) -> str:
        return (
            f"{self.name} at {self.used_flops:.0%} of its {self.half_flops / 1e12:.0f} TFLOP/s "
            f"(bfloat16; float32: {self.full_flops / 1e12:.0f}) and {self.used_bandwidth:.0%} of "
            f"its {self.bandwidth / 1e12:.2f} TB/s"
        )


H100 = Device("H100 SXM", half_flops=989e12, full_flops=67e12, bandwidth=3.35e12, memory=80e9)


@dataclass(frozen=True)
class Workload:
    """What one process does in a step.

    weight_bytes: of a number of the weights. autocast: compute in bfloat16 all the same.
    longest_prompt, longest_teacher_prompt: in tokens, which memory goes by.
    prompt, teacher_prompt: of a usual problem, which time goes by.
    engine: what samples: "hf" or "vllm" in this process, anything else elsewhere.
    device_memory: in bytes, of which vLLM takes its share.
    """

    algorithm: Algorithm
    config: TrainConfig
    longest_prompt: int
    longest_teacher_prompt: int
    prompt: float
    teacher_prompt: float
    weight_bytes: int = FULL
    autocast: bool = False
    processes: int = 1
    lora_rank: int | None = None
    engine: str = "hf"
    device_memory: float = H100.memory

    @property
    def rows(self) -> int:
        """Rollouts of this process."""
        return -(-self.config.rollouts_per_step // self.processes)

    @property
    def samples_here(self) -> bool:
        return self.engine in ("hf", "vllm")

    @property
    def computed_bytes(self) -> int:
        """Of a number that the model computes."""
        return HALF if self.autocast else self.weight_bytes

    @property
    def row_tokens(self) -> int:
        """Of the longest rollout behind the longest prompt that the algorithm reads."""
        longest = self.longest_prompt
        if self.algorithm.teacher is not None:
            longest = max(longest, self.longest_teacher_prompt)
        return longest + self.config.max_response_tokens

    @property
    def micro_batch_rows(self) -> int:
        """Rollouts of a forward and backward pass."""
        config = self.config
        rows = -(-self.rows // config.mini_batches)
        rows = min(rows, config.micro_batch_size or rows)
        if config.micro_batch_tokens is not None:
            rows = min(rows, max(config.micro_batch_tokens // self.row_tokens, 1))
        return rows

    @property
    def sampled_rows(self) -> int:
        """Rollouts that are decoded side by side, where all have the longest prompt."""
        rows, places = min(self.rows, SAMPLED_AT_ONCE), self.config.sampling_tokens
        if places is None:
            return rows
        longest = self.longest_prompt + self.config.max_response_tokens
        return min(rows, max(places // longest, 1))


@dataclass(frozen=True)
class Memory:
    """Bytes of a process, by what they hold: always, and while it trains or samples."""

    always: dict[str, float]
    training: dict[str, float]
    sampling: dict[str, float]

    @property
    def while_training(self) -> float:
        return sum(self.always.values()) + sum(self.training.values())

    @property
    def while_sampling(self) -> float:
        return sum(self.always.values()) + sum(self.sampling.values())


def memory(shape: ModelShape, work: Workload, other_teacher: ModelShape | None = None) -> Memory:
    """Without what the framework takes for itself and loses between allocations, about a tenth.

    other_teacher: the shape of another model that is the teacher.
    """
    config, size = work.config, work.weight_bytes
    shards = work.processes if config.sharding == "fsdp" else 1
    whole = shape.parameters * size
    always = {"weights": whole / shards} | _trained(shape, work, shards)
    always |= _copies(shape, work, shards, other_teacher)
    training, sampling = _passes(shape, work), {}
    if work.autocast and size == FULL and shards == 1:
        training["weights in bfloat16"] = float(shape.parameters * HALF)
    if shards > 1:  # a layer's at a time in training, all in sampling
        training["gathered weights"] = (2 * shape.head + shape.matrices / shape.layers) * size
        sampling["gathered weights"] = float(whole)
    if work.engine == "hf":
        sampling["keys and values"] = _cached_elements(shape, work) * work.computed_bytes
        sampling["distributions"] = work.sampled_rows * shape.vocabulary * DRAWN_BYTES
    return Memory(always, training, sampling)


def _trained(shape: ModelShape, work: Workload, shards: int) -> dict[str, float]:
    """Gradients and AdamW's two moments, for each optimizer that the algorithm's losses name."""
    trained = _trained_bytes(shape, work) / shards
    found = {} if work.lora_rank is None else {"adapter": trained}
    return found | {"gradients": trained, "optimizer": 2 * _optimizers(work) * trained}


def _trained_bytes(shape: ModelShape, work: Workload) -> float:
    """Of all weights that are trained: the model's, or its adapter's."""
    if work.lora_rank is not None:
        return float(shape.adapter(work.lora_rank) * FULL)
    return float(shape.parameters * work.weight_bytes)


def _optimizers(work: Workload) -> int:
    return len({loss.optimizer for losses in _losses(work) for loss in losses})


def _copies(
    shape: ModelShape, work: Workload, shards: int, other_teacher: ModelShape | None
) -> dict[str, float]:
    """Teacher, reference and the sampler's own weights; a moving average of weights of fewer than
    32 bits is kept in float32 as well. Copies share all but the adapter where one is trained."""
    algorithm, size, count = work.algorithm, work.weight_bytes, shape.parameters
    if work.lora_rank is not None:
        size, count = FULL, shape.adapter(work.lora_rank)
    average = size + (FULL if size < FULL else 0)
    found: dict[str, float] = {}
    if other_teacher is not None:
        found["teacher (another model)"] = other_teacher.parameters * work.weight_bytes / shards
    elif algorithm.teacher == "ema":
        found[EMA_TEACHER] = count * average / shards
    elif algorithm.teacher in ("frozen", "trust_region"):
        found[INITIAL_TEACHER] = count * size / shards
    if algorithm.needs_reference:
        each = average if algorithm.reference_rate else size
        found[REFERENCE] = count * each / shards
    if work.engine == "vllm":
        found["vLLM"] = VLLM_SHARE * work.device_memory
    if work.config.overlap and work.engine == "hf":
        found["the sampler's copy"] = float(shape.parameters * work.weight_bytes)
    return found


@dataclass(frozen=True)
class Disk:
    """Bytes that a run writes, all but its texts and numbers: a model, a checkpoint, all that is
    there at once while it runs (`at_most`), and what is left when it has finished (`left`)."""

    model: float
    checkpoint: float
    at_most: float
    left: float


def disk(shape: ModelShape, work: Workload, other_teacher: ModelShape | None = None) -> Disk:
    """A checkpoint has the model as a folder, and the state to go on from: its trained weights,
    both moments of each optimizer, and the weights of teacher and reference. What replaces another
    file is complete before that is removed."""
    config, trained = work.config, _trained_bytes(shape, work)
    model = float(shape.parameters * work.weight_bytes)
    model += 0.0 if work.lora_rank is None else trained
    copies = _copies(shape, work, 1, other_teacher)
    kept = sum(copies.get(name, 0.0) for name in IN_CHECKPOINTS)
    checkpoint = model + trained * (1 + 2 * _optimizers(work)) + kept
    saves = -(-config.steps // config.save_every) if config.save_every else 0
    evaluates = config.eval_every and config.eval_problems
    evaluations = -(-config.steps // config.eval_every) if evaluates else 0
    return Disk(
        model,
        checkpoint,
        at_most=min(saves, config.keep_checkpoints + 1) * checkpoint
        + (min(evaluations, 2) + 1) * model,
        left=min(saves, config.keep_checkpoints) * checkpoint + (min(evaluations, 1) + 1) * model,
    )


def _passes(shape: ModelShape, work: Workload) -> dict[str, float]:
    """What a forward pass keeps for the backward pass, and what the vocabulary takes."""
    rows, checkpointed = work.micro_batch_rows, work.config.gradient_checkpointing
    tokens = rows * work.row_tokens
    layers = activation_bytes(shape, work.weight_bytes, autocast=work.autocast)
    kept = layers
    if checkpointed:  # each layer's input, and all of the one that is computed again
        kept = shape.layers * shape.hidden * work.weight_bytes + layers / shape.layers
    answers = rows * work.config.max_response_tokens
    return {
        "activations": tokens * kept,
        "logits": logits_bytes(shape, answers, has_teacher=work.algorithm.teacher is not None),
    }


def activation_bytes(shape: ModelShape, weight_bytes: int, *, autocast: bool) -> float:
    """Bytes per token that all layers keep for the backward pass, without recomputation.

    Float32: L · 4 · (6h + 4q + 4k + 4i): inputs, normalized inputs and outputs of two norms;
    queries and keys before and after their norms and turned, values, and what attention gives; gate
    before and after its activation, the other half, their product. Norms work in float32, so that
    with fewer bits they keep more elements. Attention keeps no table of scores.
    """
    by_precision = {(FULL, False): (6, 4), (HALF, False): (8, 5), (HALF, True): (8, 5)}
    of_stream, of_heads = by_precision.get((weight_bytes, autocast), (11, 7))
    elements = (
        of_stream * shape.hidden + of_heads * (shape.queries + shape.keys) + 4 * shape.intermediate
    )
    return shape.layers * elements * (HALF if autocast else weight_bytes)


def logits_bytes(shape: ModelShape, tokens: int, *, has_teacher: bool) -> float:
    """Of the passes over the vocabulary of `tokens` response tokens (ops/chunked_logits.py): small
    tables in full, with their gradients; else a chunk per model, and the head's gradient."""
    models = 2 if has_teacher else 1
    if fits(tokens, shape.vocabulary):
        return (models + 2) * tokens * shape.vocabulary * FULL
    return models * CHUNK_ELEMENTS * FULL + shape.head * FULL + tokens * shape.hidden * FULL


def _cached_elements(shape: ModelShape, work: Workload) -> float:
    """At most: answers that are decoded side by side at their longest, each prompt once."""
    rows = work.sampled_rows
    prompts = -(-rows // work.config.group_size)
    answers = rows * shape.cached(work.config.max_response_tokens)
    return answers + prompts * shape.cached(work.longest_prompt)


def seconds(
    shape: ModelShape, work: Workload, response: float, device: Device = H100
) -> dict[str, float]:
    """Of a step, by its parts, where every answer has `response` tokens; without what judging,
    evaluations and the exchange between processes take. Sampling is left out where another
    process does it."""
    speed = device.half_flops if work.computed_bytes == HALF else device.full_flops
    flops = _training_flops(shape, work, response)
    found = {"training": flops / (speed * device.used_flops)}
    if work.samples_here:
        found["sampling"] = _sampling_seconds(shape, work, response, speed, device)
    return found


def _training_flops(shape: ModelShape, work: Workload, response: float) -> float:
    """Of this process's rollouts in an average step.

    Each loss: forward and backward (twice a forward pass; once where only adapters are trained),
    once more forward with checkpointing, with a `measure` and with a limit on steps; and forward
    passes of the teacher and the reference, if the algorithm has them.
    """
    algorithm, config = work.algorithm, work.config
    student = shape.forward_flops(work.prompt, response)
    taught = shape.forward_flops(work.teacher_prompt, response)
    each = student * (3 if work.lora_rank is None else 2)
    each += student if config.gradient_checkpointing else 0
    each += student if config.max_step_kl is not None else 0
    each += taught if algorithm.teacher is not None else 0
    each += student if algorithm.needs_reference else 0
    steps = _losses(work)
    losses = sum(len(of_step) for of_step in steps) / len(steps)
    measures = sum(loss.measure is not None for of_step in steps for loss in of_step) / len(steps)
    total = losses * each + measures * (taught if algorithm.teacher is not None else student)
    if work.computed_bytes == HALF or config.overlap or work.engine != "hf":
        total += student  # the log-probabilities of `sampler_correction`
    return work.rows * total


def _losses(work: Workload) -> list[list[Any]]:
    """The losses of each step, of all passes over its batch."""
    steps = max(work.config.steps, 1)
    return [
        [
            loss
            for update in range(work.config.updates_per_batch)
            for loss in work.algorithm.losses(Step(index, steps, update))
        ]
        for index in range(min(steps, STEPS_LOOKED_AT))
    ]


def _sampling_seconds(
    shape: ModelShape, work: Workload, response: float, speed: float, device: Device
) -> float:
    """Each prompt is read once for its group. Then every token of the rows that are decoded side by
    side takes its operations, or reading all weights and the rows' keys and values, whichever is
    longer."""
    groups = work.rows / work.config.group_size
    flops = shape.forward_flops(work.prompt, 0) * groups / (speed * device.used_flops)
    rows = work.sampled_rows
    batches = -(-work.rows // rows)
    compute = 2 * rows * (shape.matrices + shape.head) / (speed * device.used_flops)
    read = shape.matrices + shape.head + rows * shape.cached(work.prompt + response / 2)
    reading = read * work.computed_bytes / (device.bandwidth * device.used_bandwidth)
    return flops + batches * response * max(compute, reading)
