"""Endless streams of examples that a tiny model is warmed up with: one class for each task."""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vpd_agent.data.types import Message
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.tiny.config import CodeWarmupConfig, WarmupConfig
from vpd_envs.code import mini_code, mini_function
from vpd_envs.math import mini_arithmetic
from vpd_envs.mini_task import RIGHT, MiniTask, Table
from vpd_envs.questions import mini_choice
from vpd_envs.types import Problem

Pair = tuple[str, str]  # of names
Digits = tuple[int, int]
P = TypeVar("P")
A = TypeVar("A")


@dataclass(frozen=True)
class Example:
    messages: list[Message]
    answer: str


class Examples(ABC, Generic[P, A]):
    """Examples for one of the Mini tasks: of a student's prompts, and of a teacher's, which have an
    attempt and the feedback on it. P: what a problem is; A: what an answer to it says.

    What a model is not to know is drawn anew for each example, as if it were right there.
    """

    problems: Sequence[P]
    wrong_form = MiniTask.wrong_form

    def __init__(self, config: WarmupConfig) -> None:
        self.config = config
        self.random = random.Random(config.seed)

    @abstractmethod
    def prompt(self, problem: P) -> str:
        """The student's."""

    @abstractmethod
    def guess(self, problem: P) -> A:
        """What the model is to know of the right answer, and random choices for the rest."""

    @abstractmethod
    def wrong_guess(self, problem: P, truth: A) -> A:
        """A guess as the student would fail; anything wrong where it would not."""

    @abstractmethod
    def forms(self, answer: A) -> tuple[str, str]:
        """The answer as a rigid task wants it, and in another form."""

    @abstractmethod
    def malformed(self, text: str) -> tuple[str, str]:
        """The text damaged so that it is no answer, and the feedback on that."""

    @abstractmethod
    def feedback(self, truth: A, answer: A) -> str:
        """On a well-formed answer."""

    def draw(self) -> Example:
        rng, config = self.random, self.config
        problem = rng.choice(self.problems)
        prompt = [{"role": "user", "content": self.prompt(problem)}]
        truth = self.guess(problem)
        if rng.random() >= config.teacher_share:
            return Example(prompt, self.written(truth, config.rigid_share))
        kind = rng.random()
        if kind < config.copy_share:
            attempt, feedback, target = self.attempt(truth), RIGHT, truth
        elif kind < config.copy_share + config.malformed_share:
            attempt, feedback = self.unreadable(self.guess(problem))
            target = truth
        else:
            wrong = self.wrong_guess(problem, truth)
            attempt, feedback = self.attempt(wrong), self.feedback(truth, wrong)
            target = self.guess(problem) if rng.random() < config.ignore_share else truth
        messages = COMPACT.messages(prompt, attempt, feedback, solved=target == truth)
        return Example(messages, self.written(target, config.teacher_rigid_share))

    def attempt(self, answer: A) -> str:
        """An attempt that the judge reads: in the rigid form, where only that counts."""
        return self.written(answer, 1.0 if self.config.rigid else self.config.rigid_share)

    def unreadable(self, answer: A) -> tuple[str, str]:
        """An attempt that is not read, and the feedback on it."""
        if not self.config.rigid:
            return self.malformed(self.attempt(answer))
        other = self.forms(answer)[1]
        return self.malformed(other)[0] if self.random.random() < 0.2 else other, self.wrong_form

    def written(self, answer: A, rigid_share: float) -> str:
        """In the rigid form in that share of cases."""
        rigid, other = self.forms(answer)
        if rigid_share in (0.0, 1.0):
            return rigid if rigid_share else other
        return rigid if self.random.random() < rigid_share else other

    def damaged(self, text: str, characters: str) -> str:
        """The text with a character lost, doubled or put in between."""
        i = self.random.randrange(len(text))
        kind = self.random.randrange(3)
        if kind == 0:
            return text[:i] + text[i + 1 :]
        if kind == 1:
            return text[: i + 1] + text[i:]
        return text[:i] + self.random.choice(characters) + text[i:]


class NameExamples(Examples[P, A]):
    """Of tasks with the hidden table of names: the digits of `known_names` names are taught."""

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        self.table = Table.make(config.table_seed)
        slots = (self.table.first, self.table.second)
        self.known = [dict(list(digits.items())[: config.known_names]) for digits in slots]


class ProgramExamples(NameExamples[Pair, Digits]):
    """Of a task whose answers compute x*a+b."""

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        self.problems = self.table.train_pairs

    def prompt(self, problem: Pair) -> str:
        return "".join(problem)

    def guess(self, problem: Pair) -> Digits:
        """The digits of known names, random ones for the others."""
        a, b = (
            known.get(name, self.random.randint(1, 9))
            for name, known in zip(problem, self.known, strict=True)
        )
        return a, b

    def wrong_guess(self, problem: Pair, truth: Digits) -> Digits:
        wrong = self.guess(problem)
        while wrong == truth:
            wrong = self.random.randint(1, 9), self.random.randint(1, 9)
        return wrong


class ExpressionExamples(ProgramExamples):
    """Of vpd/MiniCode-v0."""

    def forms(self, answer: Digits) -> tuple[str, str]:
        a, b = answer
        return mini_code.expression(a, b), f"{b}+x*{a}"

    def malformed(self, text: str) -> tuple[str, str]:
        while True:
            damaged = self.damaged(text, "x*+0123456789")
            try:
                compile(damaged, "attempt", "eval")
            except SyntaxError:
                return damaged, f"!{SyntaxError.__name__}"

    def feedback(self, truth: Digits, answer: Digits) -> str:
        return mini_code.feedback_for(*truth, *answer)


class FunctionExamples(ProgramExamples):
    """Of vpd/MiniFunction-v0."""

    wrong_form = mini_function.MiniFunction.wrong_form

    def forms(self, answer: Digits) -> tuple[str, str]:
        a, b = answer
        return mini_function.function(a, b), f"def f(x):\n y={b}\n return y+x*{a}"

    def malformed(self, text: str) -> tuple[str, str]:
        """One character is damaged, or one y is another letter."""
        if self.random.random() < 0.5:
            first, second = (i for i, character in enumerate(text) if character == "y")
            place, letter = self.random.choice((first, second)), self.random.choice("abcdz")
            missing = "y" if place == first else letter
            text = text[:place] + letter + text[place + 1 :]
            return text, mini_function.stopped("NameError", f"name {missing!r} is not defined")
        while True:
            damaged = self.damaged(text, "xyf*+=():0123456789")
            try:
                compile(damaged, "attempt", "exec")
            except SyntaxError as error:
                return damaged, mini_function.stopped(type(error).__name__, error.msg)

    def feedback(self, truth: Digits, answer: Digits) -> str:
        return mini_function.feedback_for(*truth, *answer)


class ChoiceExamples(NameExamples[Problem, str]):
    """Of vpd/MiniChoice-v0. An answer is a letter."""

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        env = mini_choice.MiniChoice(table_seed=config.table_seed)
        self.problems = [env.problem(problem_id) for problem_id in env.problem_ids]
        self.marked = mini_choice.marked_names(config.table_seed)

    def prompt(self, problem: Problem) -> str:
        return problem.prompt

    def guess(self, problem: Problem) -> str:
        """What is known of the two names, and a random choice for the rest."""
        names = problem.metadata["first"], problem.metadata["second"]
        return mini_choice.letter_of(*map(self.is_marked, names, self.known, self.marked))

    def is_marked(self, name: str, known: Container[str], marked: Container[str]) -> bool:
        return name in marked if name in known else self.random.random() < 0.5

    def wrong_guess(self, problem: Problem, truth: str) -> str:
        wrong = self.guess(problem)
        while wrong == truth:
            wrong = self.random.choice(mini_choice.LETTERS)
        return wrong

    def forms(self, answer: str) -> tuple[str, str]:
        return f"({answer})", answer

    def malformed(self, text: str) -> tuple[str, str]:
        return text + self.random.choice(mini_choice.LETTERS + "()"), "!Format"

    def feedback(self, truth: str, answer: str) -> str:
        return mini_choice.feedback_for(truth, answer)


class ArithmeticExamples(Examples[Digits, str]):
    """Of vpd/MiniArithmetic-v0, with its usual number of digits. An answer is digits.

    All of the right answer is to be known: training ends before the model knows it. None of the
    sums is a held-out one.
    """

    DIGITS = 2

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        _, held_out = mini_arithmetic.sums(config.table_seed, self.DIGITS)
        hidden = {frozenset(each) for each in held_out}
        numbers = range(10 ** (self.DIGITS - 1), 10**self.DIGITS)
        every = itertools.product(numbers, numbers)
        self.problems = [each for each in every if frozenset(each) not in hidden]

    def prompt(self, problem: Digits) -> str:
        return f"{problem[0]}+{problem[1]}"

    def guess(self, problem: Digits) -> str:
        return str(sum(problem))

    def wrong_guess(self, problem: Digits, truth: str) -> str:
        """Each digit is a random one in half of the cases."""
        wrong = truth
        while wrong == truth:
            places = truth.zfill(self.DIGITS + 1)
            slips = [
                self.random.choice((place, self.random.choice("0123456789"))) for place in places
            ]
            wrong = str(int("".join(slips)))
        return wrong

    def forms(self, answer: str) -> tuple[str, str]:
        return mini_arithmetic.rigid_answer(int(answer), self.DIGITS), answer

    def malformed(self, text: str) -> tuple[str, str]:
        i = self.random.randrange(len(text) + 1)
        return text[:i] + self.random.choice("+-.x") + text[i:], "!Format"

    def feedback(self, truth: str, answer: str) -> str:
        return mini_arithmetic.feedback_for(truth, answer)


class CodeExamples:
    """For tiny-code: any text is answered by a short program."""

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
