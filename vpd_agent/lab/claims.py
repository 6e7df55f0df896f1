"""The claims of the papers, and of our own, that the lab tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vpd_agent.comparison.formats import listed
from vpd_agent.lab.contrasts import (
    AREA,
    END,
    GAIN,
    REPAIR,
    RISE,
    Contrast,
    Verdict,
    difference,
)
from vpd_agent.lab.experiments import EXPERIMENTS
from vpd_agent.lab.readings import Lab
from vpd_agent.statistics.estimates import Estimate

MIXED = "differs from task to task"
PLATEAU = 0.05  # a smaller rise of the repair rate in the second half of a run is none
_VPD, _SDPO = "VPD, arXiv 2605.15113", "SDPO, arXiv 2601.20802"
_CLEAN, _CORRUPTED = "environment", "environment+noisy:shuffle=0.75"


@dataclass(frozen=True)
class Claim:
    """A sentence that holds on a task if every one of its parts does.

    published: the figures of its source. experiment: whose comparisons test it.
    """

    says: str
    source: str
    published: str
    experiment: str
    parts: tuple[Contrast, ...]


def _noise_costs(ours: str, theirs: str) -> Contrast:
    """What corrupted feedback takes from the two, claimed to be less from ours."""
    return Contrast(
        END,
        (f"vpd {_CORRUPTED} {ours}", f"vpd {_CLEAN} {theirs}"),
        (f"vpd {_CLEAN} {ours}", f"vpd {_CORRUPTED} {theirs}"),
    )


CLAIMS = (
    Claim(
        "VPD ends above SDPO, each with 0.3 of the reward's term.",
        _VPD,
        "LiveCodeBench v6 with Qwen3-8B 49.62 and 47.33 %, SciKnowEval 77.15 and 74.44 %",
        "main",
        (difference("vpd", "sdpo"),),
    ),
    Claim(
        "Without the reward's term, as published, VPD ends above SDPO.",
        _VPD,
        "LiveCodeBench v6 with Qwen3-8B 49.62 and 47.33 %, SciKnowEval 77.15 and 74.44 %",
        "reward",
        (difference("vpd reward_weight=0", "sdpo reward_weight=0"),),
    ),
    Claim(
        "VPD ends above GRPO.",
        _VPD,
        "LiveCodeBench v6 with Qwen3-8B 49.62 and 45.61 %, SciKnowEval 77.15 and 73.11 %",
        "main",
        (difference("vpd", "grpo"),),
    ),
    Claim(
        "SDPO ends above GRPO.",
        f"{_SDPO}; {_VPD}",
        "LiveCodeBench v6 with Qwen3-8B 48.8 and 41.2 % in the first, 47.33 and 45.61 % in the "
        "second; but SciKnowEval with Qwen3-1.7B 66.34 and 69.81 %",
        "main",
        (difference("sdpo", "grpo"),),
    ),
    Claim(
        "The teacher stops improving under SDPO and goes on improving under VPD.",
        _VPD,
        "said in words (section 1)",
        "teacher",
        (
            Contrast(RISE, ("sdpo",), claimed="below", bound=PLATEAU),
            Contrast(RISE, ("vpd",)),
            difference("vpd", "sdpo", REPAIR),
        ),
    ),
    Claim(
        "VPD's dynamic prior ends above a fixed one.",
        _VPD,
        "SciKnowEval with Qwen3-1.7B 74.34 and 67.84 %",
        "prior",
        (difference("vpd prior=dynamic", "vpd prior=fixed"),),
    ),
    Claim(
        "An E-step every 5 steps ends above one every step, and above one every 10.",
        _VPD,
        "SciKnowEval with Qwen3-1.7B 74.34, 70.21 and 69.27 %",
        "frequency",
        (
            difference("vpd e_step_every=5", "vpd e_step_every=1"),
            difference("vpd e_step_every=5", "vpd e_step_every=10"),
        ),
    ),
    Claim(
        "Feedback by self-critique, against nothing but right or wrong, helps VPD more than SDPO.",
        _VPD,
        "with self-critique 78.14 and 74.87 % (Qwen3-8B)",
        "sources",
        (
            Contrast(
                END, ("vpd self-critique", "sdpo outcome"), ("vpd outcome", "sdpo self-critique")
            ),
        ),
    ),
    Claim(
        "On a cold start SDPO collapses (it ends below where it began), and VPD ends between SDPO "
        "and GRPO.",
        _VPD,
        "SciKnowEval with Qwen3-4B-Base: SDPO collapses, VPD 63.95, GRPO 74.49 %",
        "cold-start",
        (
            Contrast(GAIN, ("sdpo",), claimed="below"),
            difference("vpd", "sdpo"),
            difference("grpo", "vpd"),
        ),
    ),
    Claim(
        "Where one exact form counts, SDPO collapses (it ends below where it began), VPD later "
        "(its mean over the training is above SDPO's), and GRPO ends above both.",
        _VPD,
        "MATH-500 with Qwen3-8B: SDPO collapses, VPD later, GRPO 83.8 %",
        "rigid",
        (
            Contrast(GAIN, ("sdpo",), claimed="below"),
            difference("vpd", "sdpo", AREA),
            difference("grpo", "vpd"),
            difference("grpo", "sdpo"),
        ),
    ),
    Claim(
        "SDPG ends above GRPO.",
        "SDPG, arXiv 2606.04036",
        "said in words",
        "main",
        (difference("sdpg", "grpo"),),
    ),
    Claim(
        "SRPO ends above SDPO and above GRPO.",
        "SRPO, arXiv 2604.02288",
        "mean of five tasks with Qwen3-8B after ten hours: 77.4, 71.1 and 74.0 %",
        "main",
        (difference("srpo", "sdpo"), difference("srpo", "grpo")),
    ),
    Claim(
        "RLSD ends above SDPO and above GRPO.",
        "RLSD, arXiv 2604.03128",
        "mean of five tasks with Qwen3-VL-8B: 56.18, 52.74 and 53.86 %",
        "main",
        (difference("rlsd", "sdpo"), difference("rlsd", "grpo")),
    ),
    Claim(
        "SC-SDPO ends above SDPO.",
        "SC-SDPO, arXiv 2605.27765",
        "3.2 points above with Qwen3-8B, 1.8 with OLMo-3-7B",
        "main",
        (difference("sc-sdpo", "sdpo"),),
    ),
    Claim(
        "π-Distill ends above the reward alone (GRPO).",
        "π-Distill, arXiv 2602.04942",
        "Travel Planner with Qwen3-8B 41.1 and 27.5 %",
        "main",
        (difference("pi-distill", "grpo"),),
    ),
    Claim(
        "PAST ends above OPSD and above GRPO.",
        "PAST, arXiv 2608.08726",
        "mean of three mathematics contests with Qwen3-1.7B: 48.4, 42.8 and 40.5 %",
        "main",
        (difference("past", "opsd"), difference("past", "grpo")),
    ),
    Claim(
        "SDAR ends above GRPO in a game of several moves.",
        "SDAR, arXiv 2605.15155",
        "ALFWorld 9.4, Search-QA 7.0, WebShop 10.2 points above, Qwen2.5 and Qwen3",
        "agents",
        (difference("sdar", "grpo"),),
    ),
    Claim(
        "With a trust gate VPD loses less to corrupted feedback (75 % exchanged) than without.",
        "this project",
        "no figure",
        "noise",
        (_noise_costs("gate_width=0.15", "gate_width=None"),),
    ),
    Claim(
        "VPD and SDPO end higher with 0.3 of the reward's term than without it.",
        "this project",
        "MiniCode, four tuning seeds: SDPO .88 and .57",
        "reward",
        (
            difference("vpd reward_weight=0.3", "vpd reward_weight=0"),
            difference("sdpo reward_weight=0.3", "sdpo reward_weight=0"),
        ),
    ),
    Claim(
        "VPD taught on failed rollouts only ends above VPD taught on all.",
        "this project",
        "MiniCode, 14 seeds: +.12 ± .07",
        "taught",
        (
            difference(
                "vpd distill_on=failed teach_truncated=true",
                "vpd distill_on=all teach_truncated=true",
            ),
        ),
    ),
    Claim(
        "VPD-PG ends higher on long answers where its teacher does not speak on their end.",
        "this project",
        "MiniFunction, eight search seeds at 8e-4: .86 and .85",
        "ends",
        (difference("vpd-pg teach_end=false", "vpd-pg teach_end=true"),),
    ),
)


@dataclass(frozen=True)
class Finding:
    """A claim on one task. estimates: of its parts."""

    task: str
    parts: tuple[Contrast, ...]
    estimates: tuple[Estimate, ...]

    @property
    def tested(self) -> list[tuple[Contrast, Estimate, Verdict]]:
        """The parts, what came out of each, and what that says."""
        parts = zip(self.parts, self.estimates, strict=True)
        return [(part, estimate, part.verdict(estimate)) for part, estimate in parts]

    @property
    def verdict(self) -> Verdict:
        return min((verdict for *_, verdict in self.tested), key=list(Verdict).index)


@dataclass(frozen=True)
class Tested:
    """A claim, and what came of it on each task of its experiment."""

    claim: Claim
    findings: list[Finding]

    @property
    def verdict(self) -> Verdict | Literal["differs from task to task"]:
        """The one that all tasks that were run have."""
        found = {f.verdict for f in self.findings} - {Verdict.NOT_RUN}
        if len(found) > 1:
            return MIXED
        return next(iter(found), Verdict.NOT_RUN)

    @property
    def words(self) -> str:
        """holds here: code-warm and choice-warm; not told apart: function-warm"""
        told = []
        for verdict in (Verdict.HOLDS, Verdict.FAILS, Verdict.UNCLEAR, Verdict.NOT_RUN):
            tasks = [f.task for f in self.findings if f.verdict == verdict]
            told += [f"{verdict}: {listed(tasks)}"] if tasks else []
        return "; ".join(told)


def check_claims(lab: Lab) -> list[Tested]:
    """Every claim on every task of its experiment."""
    return [
        Tested(claim, [_finding(claim, task, lab) for task in _tasks(claim)]) for claim in CLAIMS
    ]


def _tasks(claim: Claim) -> tuple[str, ...]:
    return EXPERIMENTS[claim.experiment].tasks


def _finding(claim: Claim, task: str, lab: Lab) -> Finding:
    reading = lab.get((claim.experiment, task))
    estimates = tuple(
        Estimate(float("nan")) if reading is None else part.estimate(reading.results)
        for part in claim.parts
    )
    return Finding(task, claim.parts, estimates)
