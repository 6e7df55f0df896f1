"""What a step cost, from its line in metrics.jsonl."""

from __future__ import annotations

from vpd_agent.runs.files import Row


def sampled_tokens(row: Row) -> float:
    """Tokens sampled for training: of the student's rollouts and of the teacher's."""
    own = row.get("rollouts", 0) * row.get("response_tokens", 0)
    tokens = row.get("teacher_rollouts/mean_tokens", 0)
    return own + row.get("teacher_rollouts/count", 0) * tokens
