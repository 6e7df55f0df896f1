"""Warm-started tiny models: supervised training from scratch in minutes, cached by content.

tiny-warm is for `vpd/MiniCode-v0`: it can write expressions, knows a few names, and has seen
feedback but mostly ignored it, so that reading feedback is a latent skill that reinforcement
learning can draw out. tiny-function-warm, tiny-choice-warm and tiny-arithmetic-warm are the same
for the other tasks. A -cold model can write answers and has never seen feedback, so that a teacher
made of it has nothing to tell. A -rigid-warm model is for the rigid form of its task: it writes the
form that counts in a part of its answers only, and in a smaller part where it reads feedback.

tiny-game-warm makes the moves of a game of TextArena, and mostly ignores what the game says of the
moves before. tiny-code writes short Python programs in a code block, whatever it is asked: enough
to see a judge's real tracebacks come back, not enough to solve anything.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from vpd_agent.cache import cache_root
from vpd_agent.data import types
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.model import chat, tokenization
from vpd_agent.model import policy as policy_module
from vpd_agent.model.policy import Policy
from vpd_agent.rollout import teacher_prompt
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.tiny import examples as examples_module
from vpd_agent.tiny import game_examples
from vpd_agent.tiny import model as tiny_module
from vpd_agent.tiny.config import CodeWarmupConfig, GameWarmupConfig, Recipe, WarmupConfig
from vpd_agent.tiny.examples import (
    ArithmeticExamples,
    ChoiceExamples,
    CodeExamples,
    Example,
    Examples,
    ExpressionExamples,
    FunctionExamples,
)
from vpd_agent.tiny.game_examples import GameExamples
from vpd_agent.tiny.model import on_grid, tiny_policy
from vpd_envs import mini_task
from vpd_envs.code import mini_code, mini_function, mini_program
from vpd_envs.games import textarena
from vpd_envs.math import mini_arithmetic
from vpd_envs.questions import mini_choice

TASKS: dict[str, type[Examples[Any, Any]]] = {
    "code": ExpressionExamples,
    "function": FunctionExamples,
    "choice": ChoiceExamples,
    "arithmetic": ArithmeticExamples,
}


def _recipes(prefix: str, warm: WarmupConfig, cold_steps: int) -> dict[str, Recipe]:
    rigid = replace(warm, rigid=True, rigid_share=0.8, teacher_rigid_share=0.65)
    return {
        f"{prefix}-warm": warm,
        f"{prefix}-cold": replace(warm, steps=cold_steps, teacher_share=0.0),
        f"{prefix}-rigid-warm": rigid,
    }


_FUNCTION = WarmupConfig(task="function", steps=170, batch_size=64, known_names=10)
_CHOICE = WarmupConfig(
    task="choice",
    steps=120,
    batch_size=48,
    known_names=4,
    teacher_share=0.7,
    copy_share=0.3,
    malformed_share=0.1,
    ignore_share=0.0,
    rigid_share=0.0,
    teacher_rigid_share=0.0,
)
_ARITHMETIC = WarmupConfig(
    task="arithmetic",
    steps=350,
    batch_size=64,
    teacher_share=0.5,
    copy_share=0.2,
    malformed_share=0.05,
    ignore_share=0.0,
    rigid_share=0.0,
    teacher_rigid_share=0.0,
)
RECIPES: dict[str, Recipe] = {
    **_recipes("tiny", WarmupConfig(), cold_steps=90),
    **_recipes("tiny-function", _FUNCTION, cold_steps=90),
    **_recipes("tiny-choice", _CHOICE, cold_steps=40),
    **_recipes("tiny-arithmetic", _ARITHMETIC, cold_steps=200),
    "tiny-game-warm": GameWarmupConfig(),
    "tiny-code": CodeWarmupConfig(),
}


def warm_policy(config: Recipe, *, on_step: Callable[[int, float], None] | None = None) -> Policy:
    """The warm-started model, from the cache if this very recipe was followed before.

    on_step(step, loss) is called while it trains, which takes one to three minutes on one core.
    """
    folder = cache_folder(config)
    if not (folder / "config.json").is_file():
        policy = train(config, on_step=on_step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        policy.save(temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another process has just finished the same
            shutil.rmtree(temporary)
    return Policy.load(str(folder))


DECIDING = (
    *(tiny_module, examples_module, teacher_prompt, policy_module, tokenization, chat, types),
    *(mini_task, mini_program, mini_code, mini_function, mini_choice, mini_arithmetic),
    game_examples,
)


def cache_folder(config: Recipe) -> Path:
    """Named by a hash of what decides the weights: recipe, prompts, code, library versions.

    Raises ValueError for tiny-game-warm where the package of the game is missing.
    """
    sha = hashlib.sha256(
        f"{type(config).__name__} {json.dumps(asdict(config), sort_keys=True)}".encode()
    )
    sha.update(repr(COMPACT).encode())
    for module in DECIDING:
        sha.update(inspect.getsource(module).encode())
    sha.update(Path(__file__).read_bytes())
    sha.update(f"{torch.__version__} {transformers.__version__}".encode())
    if isinstance(config, GameWarmupConfig):  # the prompt is the game's own text
        sha.update(textarena.check_package().encode())
        sha.update(inspect.getsource(textarena).encode())
    return cache_root() / "warm" / sha.hexdigest()[:16]


def train(config: Recipe, *, on_step: Callable[[int, float], None] | None = None) -> Policy:
    """Supervised training from scratch on examples drawn afresh for each step. The weights do not
    depend on the processor, so that runs of different machines begin with the same.

    Processors add in different orders, and training makes differences in the last bit grow. So it
    computes in float64, with one thread, and rounds the weights after each step (`on_grid`):
    differences of 1e-16 do not pass that, but for one weight in some 1e9, and steps of the learning
    rate are much larger than the grid. float32 holds the result exactly.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(config, on_step)
    finally:
        torch.set_num_threads(threads)


def _train(config: Recipe, on_step: Callable[[int, float], None] | None) -> Policy:
    policy, examples = _model(config), _examples(config)
    policy.model.double()
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
    )
    for step in range(config.steps):
        loss = supervised_loss(policy, [examples.draw() for _ in range(config.batch_size)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        _round(policy.parameters())
        if on_step is not None:
            on_step(step + 1, loss.item())
    policy.model.float()
    return policy


@torch.no_grad()
def _round(parameters: Iterable[torch.Tensor]) -> None:
    for parameter in parameters:
        parameter.copy_(on_grid(parameter))


def _model(config: Recipe) -> Policy:
    window = config.window if isinstance(config, CodeWarmupConfig) else None
    policy = tiny_policy(config.seed, window=window)
    if isinstance(config, WarmupConfig) and config.task == "arithmetic":
        _put_digits_on_circles(policy, config.seed)
    return policy


@torch.no_grad()
def _put_digits_on_circles(policy: Policy, seed: int) -> None:
    """Embeddings of digits d that are linear in cos and sin of 2πkd/10, k = 1 … 5, of the size that
    they have anyway. From random ones a model learns the table of additions too slowly."""
    turns = torch.arange(10)[:, None] * torch.arange(1, 6)  # [10, 5]
    angles = 2 * torch.pi / 10 * turns.double()
    places = torch.cat([angles.cos(), angles.sin()], 1) / 5**0.5  # [10, 10], rows of length 1
    table = policy.model.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    generator = torch.Generator().manual_seed(seed)
    shape = 10, table.embedding_dim
    axes = 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    ids = policy.tokenizer.convert_tokens_to_ids(list("0123456789"))
    table.weight[ids] = on_grid(places @ axes).float()


def _examples(config: Recipe) -> Examples[Any, Any] | CodeExamples | GameExamples:
    if isinstance(config, CodeWarmupConfig):
        return CodeExamples(config)
    if isinstance(config, GameWarmupConfig):
        return GameExamples(config)
    return TASKS[config.task](config)


def supervised_loss(policy: Policy, examples: list[Example]) -> torch.Tensor:
    """Mean −log π(token) over the answers' tokens, the end-of-sequence token included."""
    answers = [
        [
            *policy.tokenizer(e.answer, add_special_tokens=False).input_ids,
            policy.tokenizer.eos_token_id,
        ]
        for e in examples
    ]
    prompt, prompt_mask = pad_left([policy.encode(e.messages) for e in examples], policy.pad_id)
    response, mask = pad_right(answers, policy.pad_id)
    logits = policy.forward(prompt, prompt_mask, response, mask)
    return -(logits.logprobs * mask).sum() / mask.sum()
