"""A run's folder with numbers that a test can foresee, and with texts that would like to be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpd_agent.runs.record import FORMAT

ATTACK = (
    "</script><script>window.hacked = 1</script><!-- <script> "
    '<img src="http://127.0.0.1:9/x" onerror="window.hacked = 1"> \u2028 \u2029 \ud800 & é 🙂'
)
ANSWER = ["def", " f", "(", "):\n", " return", " 1", "<|end|>"]


def rollout(step: int, position: int, solved: bool, **changes: Any) -> dict[str, Any]:
    """Token i of rollout k in step s: log π = −1, log q = −1 + gap, gap = (k+1)·(i−3)/10; so the
    answers' gaps grow with k."""
    gap = [(position + 1) * (i - 3) / 10 for i in range(len(ANSWER))]
    return {
        "answer": "".join(ANSWER[:-1]),
        "reward": float(solved),
        "solved": solved,
        "status": "solved" if solved else "wrong_answer",
        "finish": "stop",
        "feedback": f"feedback of step {step}, rollout {position}",
        "demonstration": "",
        "teacher_prompt": f"problem {step}, and feedback",
        "advantage": 1.5 if solved else -0.5,
        "tokens": ANSWER,
        "taught": True,
        "student_logprob": [-1.0] * len(ANSWER),
        "student_entropy": [0.5] * len(ANSWER),
        "teacher_logprob": [-1 + g for g in gap],
        "teacher_entropy": [0.25] * len(ANSWER),
        "divergence": [abs(g) for g in gap],
        "implicit_reward": [g / 2 for g in gap],
        **changes,
    }


def group(step: int, size: int) -> dict[str, Any]:
    return {
        "problem_id": f"problem-{step}",
        "prompt": f"problem {step}",
        "rollouts": [rollout(step, position, position == 0) for position in range(size)],
    }


def make_run(folder: Path, steps: int = 10, group_size: int = 4, **algorithm: Any) -> Path:
    """Steps 1, 11, 21, …; each with a group of rollouts, of which the first is solved."""
    folder.mkdir()
    record = {
        "format": FORMAT,
        "algorithm": {"name": "vpd", "alpha": 1.0, "top_k": None, "beta": 0.5, **algorithm},
        "options": {"env": "vpd/MiniCode-v0", "model": "tiny-warm", "feedback": "environment"},
    }
    (folder / "config.json").write_text(json.dumps(record))
    rows = [
        {"step": 10 * n + 1, "number": n, "groups": [group(10 * n + 1, group_size)]}
        for n in range(steps)
    ]
    write(folder / "inspect.jsonl", rows)
    metrics = [{"step": s, "reward": s / 100, "m_step/divergence": 1 / s} for s in range(1, 91)]
    metrics[4]["reward"] = float("nan")
    write(folder / "metrics.jsonl", metrics)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(folder: Path, **changes: Any) -> None:
    """Change the first rollout of the first step."""
    rows = [json.loads(line) for line in (folder / "inspect.jsonl").read_text().splitlines()]
    rows[0]["groups"][0]["rollouts"][0] |= changes
    write(folder / "inspect.jsonl", rows)
