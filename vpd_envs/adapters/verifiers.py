"""The environments of this suite in the verifiers library (0.4 or newer, its API `verifiers.v1`).

verifiers takes a task set by the name of a top-level module that exports it, so it needs one of
yours; two lines will do for all environments:

    # vpd_tasks.py
    from vpd_envs.adapters.verifiers import VPDEnv, VPDTaskset
    __all__ = ["VPDEnv", "VPDTaskset"]

    vf-eval vpd_tasks --env.taskset.environment vpd/Math-v0 --env.taskset.options.dataset gsm8k ...

or in Python

    block = {"id": "vpd_tasks", "environment": "vpd/MiniCode-v0", "options": {"split": "test"}}
    env = vf.load_environment(vf.resolve_env_config({"taskset": block}))

Answers are judged in the process that scores, not where the model's program runs. What a trace
tells: the reward `verdict`, the metric `solved`, and `status` and `feedback` in its `info`.
"""

# pyright: reportMissingImports=false
# verifiers is not among the packages that this project is developed with.

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from sandbox.installation import pip_install

try:
    import verifiers.v1 as vf
    from pydantic import Field
except ImportError as error:
    raise ImportError(
        "This adapter is for the verifiers library, of version 0.4 or newer: "
        f"{pip_install('verifiers>=0.4')}"
    ) from error

from sandbox.core import SandboxError
from vpd_envs.adapters import text_env
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Verdict

__all__ = ["VPDEnv", "VPDTaskset"]


class VPDTasksetConfig(vf.TasksetConfig):
    environment: str = ""  # verifiers makes the config by its `id` alone before it fills it
    """The id of the environment, `vpd/...`; your own as `module:Class`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of `gym.make`; `max_turns` above 1 gives the model the feedback and another
    answer."""


class VPDData(vf.TaskData):
    """Which problem of which environment; its tests and gold answer stay there."""

    environment: str
    options: dict[str, Any]


class VPDTask(vf.Task[VPDData]):
    """A problem. Scored by the last reply of a trace, so any environment of verifiers can play it
    and `vf-replay` judges it again; but for a game, whose verdicts depend on the replies before:
    that only `VPDEnv` plays."""

    _last: tuple[str, Verdict] | None = None  # the last answer judged, and what was said of it
    _problem: Problem | None = None  # as the next answer is judged on it, if others came before

    @property
    def key(self) -> str:
        return self.data.id

    @property
    def env(self) -> TextEnv:
        return _made(self.data.environment, json.dumps(self.data.options, sort_keys=True))

    @vf.reward
    async def verdict(self, trace: vf.Trace) -> float:
        verdict = await self.judged(trace.last_reply)
        trace.info |= {"status": verdict.status.value, "feedback": verdict.feedback}
        trace.record_metric("solved", verdict.solved)
        return verdict.reward

    async def judged(self, answer: str) -> Verdict:
        """The verdict on an answer. Raises verifiers' own SandboxError where the infrastructure
        failed: the trace is then marked as failed and has no reward."""
        if self._last is None or self._last[0] != answer:
            env = self.env
            problem = self._problem or env.problem(self.data.id)
            try:
                verdict = await asyncio.to_thread(env.verdict, problem, answer)
            except SandboxError as error:
                raise vf.SandboxError(f"The answer could not be judged: {error}") from error
            self._last = answer, verdict
        return self._last[1]

    def go_on(self, answer: str) -> None:
        """What is judged next comes after this answer."""
        problem = self._problem or self.env.problem(self.data.id)
        self._problem, self._last = self.env.after(problem, answer), None


class VPDTaskset(vf.Taskset[VPDTask, VPDTasksetConfig]):
    """The problems of an environment, in its order."""

    def load(self) -> Iterator[VPDTask]:
        config = self.config
        if not config.environment:
            raise ValueError(
                "The task set has no environment: set --env.taskset.environment vpd/..., or "
                "`environment` in its config."
            )
        env = _made(config.environment, json.dumps(config.options, sort_keys=True))
        for problem_id in env.problem_ids:
            problem = env.problem(problem_id)
            data = VPDData(
                id=problem.id,
                prompt=problem.prompt,
                system_prompt=problem.system,
                environment=config.environment,
                options=config.options,
            )
            yield VPDTask(data, config.task)


class VPDEnvConfig(vf.SingleAgentEnvConfig):
    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime=vf.SubprocessConfig())
    """A plain chat without tools, which runs nothing of the model's and so needs no container."""


class VPDEnv(vf.SingleAgentEnv, vf.Env[VPDEnvConfig]):
    """Plays the feedback as the user: after an answer that does not solve the problem, the model is
    told why and asked again, up to `max_turns` answers."""

    async def run(self, task: VPDTask, agents: vf.Agents) -> None:
        task = task.with_data()  # of this episode alone: it remembers its last verdict
        if task.env.max_turns == 1:
            await agents.agent.run(task)
            return
        async with agents.agent.interaction(task) as interaction:
            segment = await interaction.turn()
            for turn in range(1, task.env.max_turns):
                if segment.terminated:
                    break
                verdict = await task.judged(segment.last_reply)
                if task.env.ends(verdict, turn):
                    break
                task.go_on(segment.last_reply)
                segment = await interaction.turn(verdict.feedback)


@cache
def _made(environment: str, options: str) -> TextEnv:
    """One environment for all tasks that name it, with options as JSON."""
    return text_env(environment, **json.loads(options))
