"""The page: everything in one file, which asks the network for nothing."""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.record import read_record
from vpd_agent.runs.run_folder import INSPECT, METRICS

CURVES = (  # name on the page → names of metrics, or their endings: the one with most values
    ("reward", ("reward",)),
    ("solved", ("solved",)),
    ("held-out pass@1", ("eval/student_pass@1",)),
    ("teacher repairs", ("eval/teacher_repair",)),
    ("divergence", ("/divergence",)),
    ("entropy", ("/entropy",)),
    ("response tokens", ("response_tokens",)),
    ("rollouts taught", ("taught_fraction", "teacher_fraction")),
    ("gate", ("gate/weight",)),
    ("gradient norm", ("/grad_norm",)),
)
MOST_POINTS = 300  # of a curve that is a few centimeters wide
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def contents(run: Path) -> dict[str, Any]:
    """What the page of a run shows. Raises ValueError without a run, or where nothing was kept."""
    record = read_record(run)
    if not record:
        raise ValueError(
            f"Expected the folder of a run, with a config.json, got {run}. Pass the --out of a "
            f"vpd train."
        )
    steps = [row for row in read_jsonl(run / INSPECT) if row["groups"]]
    if not steps:
        raise ValueError(
            f"The run in {run} has kept no rollouts to inspect: it took no step yet, was begun "
            f"with --inspect-every 0, or --inspect-max-mb was too small. Train with "
            f"--inspect-every 10."
        )
    algorithm, options = record["algorithm"], record["options"]
    return {
        "name": run.resolve().name,
        "facts": [
            algorithm["name"],
            options["env"],
            f"model {options['model']}",
            f"feedback {options['feedback']}",
        ],
        "about": {"divergence": divergence_in_words(algorithm), "beta": algorithm.get("beta")},
        "metrics": curves(read_jsonl(run / METRICS)),
        "steps": steps,
    }


def divergence_in_words(algorithm: Mapping[str, Any]) -> str:
    """Which divergence the numbers are, from an algorithm's fields; empty for one without."""
    alpha, top_k = algorithm.get("alpha"), algorithm.get("top_k")
    if alpha is None:
        return ""
    names = {0: "KL(teacher ‖ student)", 1: "KL(student ‖ teacher)"}
    name = names.get(alpha, f"Jensen–Shannon divergence, α = {alpha:g},")
    whose = algorithm.get("support", "student")
    return name if top_k is None else f"{name} on the {whose}'s {top_k} likeliest tokens"


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The run's main metrics: name, and points (step, value) where there is a finite value."""
    names = dict.fromkeys(name for row in metrics for name in row)
    found = []
    for title, endings in CURVES:
        candidates = [_points(metrics, n) for e in endings for n in names if _is_called(n, e)]
        points = max(candidates, key=len, default=[])  # an E-step has its own, but not in each step
        if points:
            found.append({"name": title, "points": points[:: -(-len(points) // MOST_POINTS)]})
    return found


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    found = [(row["step"], row[name]) for row in metrics if name in row]
    return [(step, value) for step, value in found if math.isfinite(value)]


def _is_called(name: str, ending: str) -> bool:
    return name.endswith(ending) if ending.startswith("/") else name == ending


def page(shown: Mapping[str, Any]) -> str:
    """The page of `contents`.

    What a model or an environment has written is not to be trusted: it is in the page as JSON in
    which no tag can begin or end, and the script makes text of it. Beside that, the browser is told
    to run this script only, and to ask the network for nothing.
    """
    parts = {name: _read(name) for name in ("page.css", "page.js", "body.html")}
    title = escape(f"{shown['name']} · vpd inspect")
    facts = "".join(f'<span class="soft">{escape(fact)}</span>' for fact in shown["facts"])
    heading = f"<h1>{escape(shown['name'])}</h1>{facts}"
    policy = (
        f"default-src 'none'; script-src {_source(parts['page.js'])}; "
        f"style-src {_source(parts['page.css'])}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{parts['page.css']}</style></head>\n<body>\n"
        f"{parts['body.html'].replace('<h1></h1>', heading)}"
        f'<script id="data" type="application/json">{as_json(shown)}</script>\n'
        f"<script>{parts['page.js']}</script></body></html>\n"
    )


def as_json(data: Any) -> str:
    """JSON that can stand within a script element: no tag or comment can begin or end in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def _read(name: str) -> str:
    return files("vpd_agent.inspect").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Names a script or style in a Content-Security-Policy by its hash."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
