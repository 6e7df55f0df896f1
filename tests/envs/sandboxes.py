"""Real implementations of the Sandbox protocol, for tests: one that breaks, one that records."""

from dataclasses import replace

from sandbox import ExecutionStatus, SandboxError


class BrokenSandbox:
    """Its infrastructure fails on programs or inputs that contain `trigger`."""

    name = "broken"

    def __init__(self, inner=None, trigger=""):
        self.inner, self.trigger = inner, trigger
        self.cages = 2
        self.python_version = "3.13" if inner is None else inner.python_version

    def run(self, job):
        given = (job.code, str(job.stdin), str(job.call))  # a call may carry the program
        if self.inner is None or any(self.trigger in text for text in given):
            raise SandboxError("The cage is on fire. Expected a cage; fetch water.")
        return self.inner.run(job)

    def close(self):
        pass


class BusySandbox:
    """On a machine without a CPU for programs or inputs that contain `trigger`."""

    name = "busy"

    def __init__(self, inner, trigger):
        self.inner, self.trigger, self.cages = inner, trigger, inner.cages
        self.python_version = inner.python_version

    def run(self, job):
        execution = self.inner.run(job)
        if self.trigger not in f"{job.code} {job.stdin} {job.call}":
            return execution
        return replace(execution, status=ExecutionStatus.STARVED, exit_code=None, signal=9)

    def close(self):
        pass


class RecordingSandbox:
    """Keeps every job and execution that passes through it."""

    name = "recording"

    def __init__(self, inner):
        self.inner, self.cages = inner, inner.cages
        self.python_version = inner.python_version
        self.jobs, self.executions = [], []

    def run(self, job):
        self.jobs.append(job)
        self.executions.append(self.inner.run(job))
        return self.executions[-1]

    def close(self):
        pass
