"""samples.jsonl: rollouts of a run as text. Of a step that is kept, its worst and its best one, or
all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpd_agent.data.types import Rollout
from vpd_agent.runs.files import read_jsonl

_NEEDED = ("step", "problem_id", "answer", "reward", "feedback")


def worst_and_best(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The two by reward; a single rollout comes once."""
    by_reward = sorted(rollouts, key=lambda r: r.reward)
    return [by_reward[0], by_reward[-1]] if len(by_reward) > 1 else by_reward


def sample_rows(
    step: int,
    rollouts: Sequence[Rollout],
    teacher_prompts: Sequence[list[int] | None],
    decode: Callable[[list[int]], Any],
    process: int = 0,
) -> list[dict[str, Any]]:
    """A row of samples.jsonl for each rollout. decode: makes text of token ids. process: the rank
    of the one that sampled them, which numbers its groups by itself."""
    return [
        {
            "step": step,
            "problem_id": r.problem_id,
            "process": process,
            "group": r.group,
            "teacher_rollout": r.is_teacher_rollout,
            "prompt": decode(r.prompt_ids),
            # Everything after the prompt: in several turns, the environment's replies too.
            "response": r.text if r.is_policy_token is None else decode(r.response_ids),
            "earlier": r.earlier,
            "answer": r.text,
            "finish": r.finish,
            "reward": r.reward,
            "status": r.status,
            "feedback": r.feedback,
            "demonstration": r.demonstration,
            "teacher_prompt": decode(ids) if ids is not None else None,
        }
        for r, ids in zip(rollouts, teacher_prompts, strict=True)
    ]


@dataclass(frozen=True)
class Sample:
    """A rollout that a run has kept: what the policy answered, and what was said of it.

    line: its line in samples.jsonl, from 1 on. group: None in a file of an earlier version.
    answers: one for each turn; None where an earlier version has kept only the last of several.
    """

    line: int
    step: int
    problem_id: str
    process: int
    group: int | None
    is_teacher_rollout: bool
    answers: tuple[str, ...] | None
    reward: float
    status: str
    feedback: str  # beside the demonstration
    demonstration: str

    @property
    def batch(self) -> tuple[int, int, bool]:
        """Rollouts that share it were judged together."""
        return self.step, self.process, self.is_teacher_rollout


def read_samples(path: Path) -> list[Sample]:
    """The rollouts of a samples.jsonl; none if there is no such file. Raises ValueError for a line
    that is no rollout."""
    return [_sample(path, line, row) for line, row in enumerate(read_jsonl(path), 1)]


def _sample(path: Path, line: int, row: Any) -> Sample:
    if not isinstance(row, dict) or not row.keys() >= {*_NEEDED}:
        raise ValueError(
            f"{path}, line {line}: expected a rollout with {', '.join(_NEEDED)}, got {row!r:.80}."
        )
    answers = (*row.get("earlier", ()), row["answer"])
    is_whole = "earlier" in row or row.get("response", row["answer"]) == row["answer"]
    return Sample(
        line=line,
        step=row["step"],
        problem_id=row["problem_id"],
        process=row.get("process", 0),
        group=row.get("group"),
        is_teacher_rollout=row.get("teacher_rollout", False),
        answers=answers if is_whole else None,
        reward=row["reward"],
        status=row.get("status", ""),
        feedback=row["feedback"],
        demonstration=row.get("demonstration", ""),
    )
