"""Makes the tests' own helper modules importable, has the shapes of tensors checked, and says which
tests keep to one process."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Side by side, processes of one thread are faster than processes that each want every core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says what else the machine does. (In CI, Hypothesis has no deadline.)
if "CI" not in os.environ and find_spec("hypothesis"):
    import hypothesis

    hypothesis.settings.register_profile("without deadline", deadline=None)
    hypothesis.settings.load_profile("without deadline")

# Shells start what runs in the background with SIGINT ignored, nohup with SIGHUP, and children
# inherit it: then the programs and commands of the tests would not be stopped by them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if all(map(find_spec, ("torch", "jaxtyping", "beartype"))):
    from jaxtyping import install_import_hook

    SHAPED = ["vpd_agent.ops", "vpd_agent.data", "vpd_agent.model.response_logits"]
    install_import_hook(SHAPED, "shape_checks.checked")

# Whose tests share what takes long to make: each of these files goes to one process.
TOGETHER = (
    "tests/agent/algorithms/test_laptop_task.py",
    "tests/agent/algorithms/test_learning.py",
    "tests/agent/comparison/test_compare.py",
    "tests/agent/comparison/test_report.py",
    "tests/agent/distributed/test_processes.py",
    "tests/agent/inspect/test_browser.py",
    "tests/test_benchmarks.py",
    "tests/test_train_step_benchmark.py",
)
# Tests of the sandbox that no other job on the machine disturbs: each file to one process, too.
UNDISTURBED = (
    "tests/sandbox/test_assert_idioms.py",
    "tests/sandbox/test_calls.py",
    "tests/sandbox/test_command.py",
    "tests/sandbox/test_comparison.py",
    "tests/sandbox/test_judge.py",
    "tests/sandbox/test_plain_python.py",
    "tests/sandbox/test_sizes.py",
)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be there
def pytest_xdist_make_scheduler(config, log):
    """Tests go to whichever process is free, the largest groups first. Most of the sandbox's go to
    one: the machine's memory is the object of some of them, and their clocks that of others."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            if file in TOGETHER or file in UNDISTURBED:
                return file
            return "sandbox" if file.startswith("tests/sandbox/") else nodeid

    return Scheduling(config, log)
