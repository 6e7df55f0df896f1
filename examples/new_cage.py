"""A sandbox of one's own: it hands every job to another sandbox and writes down what came of it.

    vpd sandbox run program.py --sandbox new_cage:Logged
    python examples/new_cage.py

A class with these names, such as a judge on another machine, works wherever a sandbox is named. So
does one with `start()`, whose cages get the retries and the recycling of ours: `sandbox.Backend`.
"""

import sys
from contextlib import closing

import sandbox


class Logged:
    name = "logged"

    def __init__(self, *, cages=2, inner="local", log=None):
        self.cages, self.log = cages, log
        self.inner = sandbox.make(inner, cages=cages)

    @property
    def python_version(self):
        return self.inner.python_version

    def run(self, job):
        execution = self.inner.run(job)  # a SandboxError of it is one of ours
        print(f"{len(job.code)} characters: {execution.status}", file=self.log or sys.stderr)
        return execution

    def close(self):
        self.inner.close()


if __name__ == "__main__":
    with closing(sandbox.make("new_cage:Logged", cages=1, log=sys.stdout)) as box:
        box.run(sandbox.Job("print(input())", stdin="41"))
        box.run(sandbox.Job("1 / 0"))
