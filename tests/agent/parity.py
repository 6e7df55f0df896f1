"""An environment that half of all answers solve, whatever a model has learned."""

from __future__ import annotations

from typing import ClassVar

from sandbox import SandboxError
from vpd_envs import Problem, Status, TextEnv, Verdict


class Parity(TextEnv):
    """Solved by an answer whose first character has an even code; strict: one divisible by 4."""

    broken: ClassVar[frozenset[str]] = frozenset()  # problems whose answers cannot be judged

    def __init__(self, split: str = "train", strict: bool = False, **kwargs) -> None:
        self.strict = strict
        super().__init__([Problem(f"{split}-{w}", f"{w}?", "") for w in "abcd"], **kwargs)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if problem.id in self.broken:
            raise SandboxError("the cage burnt down")
        if solves(answer, self.strict):
            return Verdict(1.0, Status.SOLVED, "Even.")
        return Verdict(0.0, Status.WRONG_ANSWER, f"{answer[:1]!r} is odd.")


def solves(answer: str, strict: bool) -> bool:
    return bool(answer) and ord(answer[0]) % (4 if strict else 2) == 0
