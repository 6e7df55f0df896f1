"""vpd solve: hard problems by training at test time, and by attempts without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from vpd_agent.cli.flags import FlagGroup, flag_types, parse, read_ahead
from vpd_agent.console import is_main_process, print_table, say

if TYPE_CHECKING:
    from vpd_agent.algorithms import Algorithm
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.solve import SolveOptions

REQUIRED: Any = tyro.MISSING
DESCRIPTION = (
    "Each method gets the same number of attempts at each problem, from the same initial model; "
    "discovery@k is the share that is solved within k attempts. Exit code 0 if all attempts were "
    "judged, 1 if some could not be."
)


class _Arguments(NamedTuple):
    options: SolveOptions
    algorithm: Algorithm
    template: TeacherTemplate


def solve(arguments: list[str]) -> int:
    from vpd_agent.train.solve import solve as solved_by

    options, algorithm, template = _parsed(arguments)
    report, failures = solved_by(options, algorithm, template)
    if report.results:
        print_table(report.counted, *report.discovery_table())
        print_table("means until solved, or until the budget is spent", *report.cost_table())
    if is_main_process():
        print("\n".join(map(str, report.write(options.out))))
    if failures:
        say(
            f"{len(failures)} searches could not be judged; the same command tries them "
            f"again. The first reason: {failures[0]}"
        )
    return 1 if failures else 0


def _parsed(arguments: Sequence[str]) -> _Arguments:
    """The flags, over the defaults of the preset and the algorithm, which are read ahead."""
    from vpd_agent.algorithms import algorithm_class
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.presets import PRESETS, chosen_preset
    from vpd_agent.train.solve import SolveOptions

    early = read_ahead(arguments, env="", model="", preset="auto", algorithm=SolveOptions.algorithm)
    name = chosen_preset(early["preset"] or "auto", early["env"], early["model"])
    preset, kind = PRESETS[name], algorithm_class(early["algorithm"])
    defaults = SolveOptions(env=REQUIRED, model=REQUIRED, out=REQUIRED)
    common = FlagGroup(SolveOptions, defaults)
    own = FlagGroup(kind, preset.algorithm(kind.name))
    if taken := set(flag_types({"": common})).intersection(flag_types({"": own})):
        raise ValueError(
            f"{kind.name}: vpd solve has other flags of the name {', '.join(sorted(taken))}: "
            f"rename these options of the algorithm."
        )
    parsed = parse(
        "vpd solve",
        arguments,
        description=DESCRIPTION,
        options=common,
        algorithm=own,
        template=FlagGroup(TeacherTemplate, preset.template, prefix="template."),
    )
    options = replace(parsed.options, preset=name)
    return _Arguments(options, parsed.algorithm, parsed.template)
