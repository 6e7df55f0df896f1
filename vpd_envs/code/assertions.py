"""Functions judged by assertions: what HumanEval and MBPP share."""

from __future__ import annotations

import ast
import dataclasses
import logging
import warnings
from collections.abc import Sequence

from sandbox import Limits
from sandbox.judge import judge
from vpd_envs.code import feedback as code_feedback
from vpd_envs.code.cases import AssertionCase
from vpd_envs.code.environment import CodeEnv, answer_format, status_of
from vpd_envs.data.files import DataOptions, Hub, Row, load_problems
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.types import Problem, Status, Verdict

log = logging.getLogger("vpd_envs")


class AssertionEnv(DatasetEnv, CodeEnv):
    """A `CodeEnv` whose problems have a tuple of `AssertionCase` as target. A subclass names the
    data set in `hub` and says in `problem_of` what a row asks.

    Each assertion is a test of its own, in a process of its own, so that one that fails says
    nothing of the others. A program that passes all of them one by one is then run once more with
    all of them in one process, as the data sets' own evaluation does it: a function that keeps
    something from one call to the next may fail there (`info["details"]["passed_together"]`). That
    run has as much time as all tests together.

    `excluded`: a dict from the ids of the problems left out, since no sandbox can run their tests,
    to the reasons.
    """

    hub: Hub

    def load(self, options: DataOptions) -> list[Problem]:
        self.excluded: dict[str, str] = {}
        return load_problems(options, self.hub, self.problem_of)

    def problem_of(self, row: Row, place: str) -> Problem | None:
        raise NotImplementedError(f"{type(self).__name__} must implement problem_of(row, place).")

    def problem_with(
        self, id_: str, task: str, tests: Sequence[AssertionCase], place: str
    ) -> Problem | None:
        """The problem; None, with the reason in `excluded`, if no sandbox can run its tests."""
        try:
            for test in tests:
                test.test.check()
        except ValueError as error:
            self.excluded[id_] = str(error)
            log.warning("%s: %s is left out. %s", place, id_, error)
            return None
        return Problem(
            id=id_,
            prompt=f"{task}\n\n{answer_format(self.limits, whole_program=False)}",
            target=tuple(tests),
            metadata={"function": tests[0].function},
        )

    def tests(self, problem: Problem) -> Sequence[AssertionCase]:
        return problem.target

    def judge_code(self, problem: Problem, code: str) -> Verdict:
        verdict = super().judge_code(problem, code)
        judged, _ = self.tests_to_run(problem)
        if not verdict.solved or len(judged) == 1:
            return verdict
        tests = [test for test in self.tests(problem) if test in judged]  # in the data's order
        together = dataclasses.replace(tests[0], input="\n".join(test.input for test in tests))
        limits = _times(self.limits_of(problem), len(tests))
        (result,) = judge(self.sandbox, code, [together], limits=limits).results
        status = status_of(result, together)
        details = {**verdict.details, "passed_together": status is Status.SOLVED}
        if status is Status.SOLVED:
            return dataclasses.replace(verdict, details=details)
        return Verdict(0.0, status, code_feedback.not_together(status), details)


def _times(limits: Limits, tests: int) -> Limits:
    """The same limits with as much time as so many tests have together."""
    assert limits.wall_seconds is not None  # `Limits` fills both in
    assert limits.cpu_seconds is not None
    return dataclasses.replace(
        limits,
        wall_seconds=limits.wall_seconds * tests,
        cpu_seconds=limits.cpu_seconds * tests,
    )


def checked_python(source: str, what: str, place: str) -> ast.Module:
    """The syntax tree of a text of the data set. Raises ValueError, which names the place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" in a docstring is no concern of ours
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{place}: {what} must be Python code, but {error}.") from error


def segment(source: str, node: ast.stmt) -> str:
    """The source of a statement, as it stands there; of one that is indented, without comments."""
    if node.col_offset and not isinstance(node, ast.Assert):
        return ast.unparse(node)
    decorators = getattr(node, "decorator_list", [])
    above = [f"@{ast.get_source_segment(source, each)}" for each in decorators]
    return "\n".join([*above, ast.get_source_segment(source, node) or ""])
