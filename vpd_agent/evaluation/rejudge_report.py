"""What changed when rollouts were judged again: tables, examples, and a page of Markdown."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpd_agent.evaluation.report import markdown
from vpd_agent.rollout.teacher_prompt import cut
from vpd_agent.runs.files import write_atomically

EXAMPLES = 5
_CHARACTERS = 600  # of an answer or a feedback in an example
Row = dict[str, Any]  # of a `VerdictFile`


@dataclass(frozen=True)
class Changes:
    """rows: of the rollouts that were judged. errors: of each other one, why it was not."""

    rows: Sequence[Row]
    errors: Sequence[str]

    @property
    def verdicts(self) -> list[Row]:
        """Those whose status or reward changed."""
        return [row for row in self.rows if _differs(row, "status", "reward")]

    @property
    def feedback(self) -> list[Row]:
        """Those of which something else is said."""
        return [row for row in self.rows if _differs(row, "feedback", "demonstration")]

    @property
    def examples(self) -> list[Row]:
        """Of both, one of each change of status first; no answer to a problem twice."""
        changed = [*self.verdicts, *self.feedback]
        first = {_statuses(row): row for row in reversed(changed)}
        distinct: dict[tuple[Any, ...], Row] = {}
        for row in (*reversed(first.values()), *changed):
            distinct.setdefault((row["problem_id"], *row["answers"]), row)
        return list(distinct.values())[:EXAMPLES]

    def told(self) -> str:
        judged = len(self.rows)
        return (
            f"{len(self.verdicts)} of {judged} verdicts changed; the feedback differs on "
            f"{len(self.feedback)} of {judged} rollouts."
        )

    def status_table(self) -> tuple[list[str], list[list[str]]]:
        """Rollouts by their status before (rows) and now (columns)."""
        counts = Counter(map(_statuses, self.rows))
        before, now = ([*dict.fromkeys(sorted(pair[i] for pair in counts))] for i in (0, 1))
        rows = [[old or "-", *(str(counts[old, new]) for new in now)] for old in before]
        return ["before \\ now", *(new or "-" for new in now)], rows

    def feedback_table(self) -> tuple[list[str], list[list[str]]]:
        """How long feedback is, and how often there is some."""
        measures = {
            "mean reward": lambda v: v["reward"],
            "mean characters of feedback": lambda v: len(v["feedback"]),
            "share without feedback": lambda v: not v["feedback"],
            "share with another's solution": lambda v: bool(v["demonstration"]),
        }
        rows = [
            [name, *(f"{_mean([of(row[which]) for row in self.rows]):.2f}" for which in SIDES)]
            for name, of in measures.items()
        ]
        return ["", "before", "now"], rows


SIDES = {"old": "before", "new": "now"}


def example_lines(row: Row) -> list[str]:
    """An example, as lines of text."""
    lines = [f"step {row['step']}, problem {row['problem_id']}", "  answer"]
    lines += _quoted(row["answers"][-1])
    for which, word in SIDES.items():
        verdict = row[which]
        lines.append(f"  {word}: {verdict['status'] or '-'}, reward {verdict['reward']:g}")
        lines += _quoted(verdict["feedback"])
        if verdict["demonstration"]:
            lines += ["  with the solution of another", *_quoted(verdict["demonstration"])]
    return lines


def write_report(
    path: Path, changes: Changes, kept: str, run: Path, judged_by: Mapping[str, Any]
) -> None:
    """A page of Markdown. kept: how many rollouts there are, in words."""
    examples = ["\n".join(f"    {line}" for line in example_lines(e)) for e in changes.examples]
    failed = [f"{len(changes.errors)} rollouts were not judged. The first reason: {e}"
              for e in changes.errors[:1]]  # fmt: skip
    sections = [
        f"# The rollouts of {run.name}, judged again",
        *(kept, changes.told(), *failed),
        markdown(*changes.status_table()),
        markdown(*changes.feedback_table()),
        *(["## Examples", *examples] if examples else []),
        "## By which judge",
        markdown(["", "now"], [[name, f"`{value}`"] for name, value in judged_by.items()]),
    ]
    write_atomically(path, "\n\n".join(sections) + "\n")


def _differs(row: Row, *names: str) -> bool:
    return any(row["old"][name] != row["new"][name] for name in names)


def _statuses(row: Row) -> tuple[str, str]:
    return row["old"]["status"], row["new"]["status"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _quoted(text: str) -> list[str]:
    return textwrap.indent(cut(text, _CHARACTERS) or "(nothing)", "    ").splitlines()
