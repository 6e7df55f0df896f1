"""Warm-started tiny models: supervised training from scratch in a minute, cached by content.

tiny-warm is for `vpd/MiniCode-v0`: it can write expressions, knows a few names, and has seen
feedback but mostly ignored it, so that reading feedback is a latent skill that reinforcement
learning can draw out. tiny-code writes short Python programs in a code block, whatever it is
asked: enough to see a judge's real tracebacks come back, not enough to solve anything.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from vpd_agent.data import types
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.data.types import Message
from vpd_agent.model import chat, teacher, tokenization
from vpd_agent.model import policy as policy_module
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.tiny import model as tiny_module
from vpd_agent.tiny.model import tiny_policy
from vpd_envs.code import mini_code


@dataclass(frozen=True)
class WarmupConfig:
    """The recipe of tiny-warm."""

    steps: int = 180
    batch_size: int = 128
    learning_rate: float = 2e-3
    known_names: int = 8
    """Names per slot whose digit is taught; the others get a fresh random one in each example."""
    teacher_share: float = 0.5
    """Examples with a teacher prompt."""
    copy_share: float = 0.1
    """Teacher examples whose attempt was right and is to be repeated."""
    malformed_share: float = 0.2
    """Teacher examples whose attempt is not an expression."""
    ignore_share: float = 0.6
    """Other teacher examples whose target ignores the feedback."""
    table_seed: int = 0
    seed: int = 0

    def model(self) -> Policy:
        return tiny_policy(self.seed)

    def examples(self) -> Examples:
        return Examples(self)


@dataclass(frozen=True)
class CodeWarmupConfig:
    """The recipe of tiny-code."""

    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 2e-3
    window: int = 64
    """Tokens that attention reaches back: short examples prepare it for prompts of any length."""
    longest_problem: int = 120
    """Characters of the text before the program."""
    seed: int = 0

    def model(self) -> Policy:
        return tiny_policy(self.seed, window=self.window)

    def examples(self) -> CodeExamples:
        return CodeExamples(self)


Recipe = WarmupConfig | CodeWarmupConfig
RECIPES: dict[str, Recipe] = {"tiny-warm": WarmupConfig(), "tiny-code": CodeWarmupConfig()}


@dataclass(frozen=True)
class Example:
    messages: list[Message]
    answer: str


def warm_policy(config: Recipe, *, on_step: Callable[[int, float], None] | None = None) -> Policy:
    """The warm-started model, from the cache if this very recipe was followed before.

    on_step(step, loss) is called while it trains, which takes about a minute on one core.
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


def cache_folder(config: Recipe) -> Path:
    """Named by a hash of what decides the weights: recipe, prompts, code, library versions."""
    sha = hashlib.sha256(
        f"{type(config).__name__} {json.dumps(asdict(config), sort_keys=True)}".encode()
    )
    sha.update(repr(COMPACT).encode())
    for module in (tiny_module, mini_code, teacher, policy_module, tokenization, chat, types):
        sha.update(inspect.getsource(module).encode())
    sha.update(Path(__file__).read_bytes())
    sha.update(f"{torch.__version__} {transformers.__version__}".encode())
    root = os.environ.get("VPD_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vpd"
    )
    return Path(root) / "warm" / sha.hexdigest()[:16]


def train(config: Recipe, *, on_step: Callable[[int, float], None] | None = None) -> Policy:
    """Supervised training from scratch on examples drawn afresh for each step."""
    policy = config.model()
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
    )
    examples = config.examples()
    for step in range(config.steps):
        loss = supervised_loss(policy, [examples.draw() for _ in range(config.batch_size)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return policy


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


class Examples:
    """An endless stream of examples for tiny-warm."""

    def __init__(self, config: WarmupConfig) -> None:
        self.config = config
        self.table = mini_code.Table.make(config.table_seed)
        self.random = random.Random(config.seed)
        slots = (self.table.first, self.table.second)
        self.known = [dict(list(digits.items())[: config.known_names]) for digits in slots]

    def draw(self) -> Example:
        rng, config = self.random, self.config
        names = rng.choice(self.table.train_pairs)
        prompt = [{"role": "user", "content": "".join(names)}]
        truth = self.guess(names)
        if rng.random() >= config.teacher_share:
            return Example(prompt, mini_code.expression(*truth))
        kind = rng.random()
        if kind < config.copy_share:
            attempt, feedback, target = mini_code.expression(*truth), mini_code.RIGHT, truth
        elif kind < config.copy_share + config.malformed_share:
            attempt, target = self.malformed(mini_code.expression(*self.guess(names))), truth
            feedback = f"!{SyntaxError.__name__}"
        else:
            wrong = self.wrong_guess(names, truth)
            attempt = mini_code.expression(*wrong)
            feedback = mini_code.feedback_for(*truth, *wrong)
            target = self.guess(names) if rng.random() < config.ignore_share else truth
        messages = COMPACT.messages(prompt, attempt, feedback, solved=target == truth)
        return Example(messages, mini_code.expression(*target))

    def guess(self, names: tuple[str, str]) -> tuple[int, int]:
        """The digits of known names, random ones for the others."""
        a, b = (
            known.get(name, self.random.randint(1, 9))
            for name, known in zip(names, self.known, strict=True)
        )
        return a, b

    def wrong_guess(self, names: tuple[str, str], truth: tuple[int, int]) -> tuple[int, int]:
        """A guess as the student would fail; any wrong digits for names it knows."""
        wrong = self.guess(names)
        while wrong == truth:
            wrong = self.random.randint(1, 9), self.random.randint(1, 9)
        return wrong

    def malformed(self, expression: str) -> str:
        """The expression with a character lost, doubled or misplaced, so that it is no Python."""
        while True:
            i = self.random.randrange(len(expression))
            kind = self.random.randrange(3)
            if kind == 0:
                text = expression[:i] + expression[i + 1 :]
            elif kind == 1:
                text = expression[: i + 1] + expression[i:]
            else:
                text = expression[:i] + self.random.choice("x*+0123456789") + expression[i:]
            try:
                compile(text, "attempt", "eval")
            except SyntaxError:
                return text


class CodeExamples:
    """An endless stream of examples for tiny-code: any text is answered by a short program."""

    def __init__(self, config: CodeWarmupConfig) -> None:
        self.config = config
        self.random = random.Random(config.seed)

    def draw(self) -> Example:
        text = self.text(self.random.randint(0, self.config.longest_problem))
        return Example([{"role": "user", "content": text}], f"```python\n{self.program()}\n```")

    def text(self, length: int) -> str:
        """Words and numbers of a problem statement's look."""
        words: list[str] = []
        while sum(map(len, words)) + len(words) < length:
            letters = self.random.choices("etaoinshrdlucmfwypbgvkNMAX", k=self.random.randint(1, 8))
            number = str(self.random.randint(0, 10 ** self.random.randint(1, 6)))
            words.append("".join(letters) if self.random.random() < 0.8 else number)
        return " ".join(words)

    def program(self) -> str:
        """One of a few forms, some of which no input can satisfy."""
        k = self.random.randint(0, 9)
        read = self.random.choice(
            ("n = int(input())", "n, m = map(int, input().split())", "s = input()\nn = len(s)")
        )
        write = self.random.choice(
            (f"print(n + {k})", f"print(n * {k})", f"print(n // {k})", "print(n, m)", "print(s[n])")
        )
        return f"{read}\n{write}"
