"""Cages on the nodes of a Ray cluster, here two nodes of one machine."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import sandbox
from sandbox import Cancelled, Job, SandboxError
from sandbox.comparison import CheckerError
from sandbox.judge import Outcome, StdinTest, judge, judge_many


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"--sandbox ray needs the package ray: .*pip.*\[ray\]"):
        sandbox.make("ray")


def test_an_address_where_nobody_listens_is_refused_at_once():
    pytest.importorskip("ray")
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"No Ray cluster at 127\.0\.0\.1:9.*ray start --head"):
        sandbox.make("ray", address="127.0.0.1:9")
    assert time.monotonic() - begin < 60  # Ray itself would try for minutes


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def box(cluster):
    with sandbox.make("ray") as box:
        yield box


@slow
def test_there_is_a_cage_for_each_core_and_jobs_run_there(box):
    assert (box.name, box.cages) == ("ray", 2)
    execution = box.run(Job("print(int(input()) + 1)", stdin="41"))
    assert execution.stdout == "42\n"
    assert box.run(Job("1 / 0")).stderr.endswith("ZeroDivisionError: division by zero\n")
    with sandbox.make(cages=1) as plain:
        assert box.python_version == plain.python_version


@slow
@pytest.mark.parametrize("stop", [True, False])
def test_judgments_are_those_of_a_plain_sandbox(box, stop):
    tests = [StdinTest(f"{n}\n", f"{n + 1}\n") for n in range(5)]
    tests.append(StdinTest("0.5\n", "1.5\n", rule=lambda output, expected, _: "1.5" in output))
    programs = ["print(int(input()) + 1)", "print(float(input()) + 1)", "print(1)", "while True: 1"]
    limits = sandbox.Limits(cpu_seconds=0.3)
    with sandbox.make(cages=2) as plain:
        for program in programs:
            here, there = (
                judge(b, program, tests, limits=limits, stop_at_first_failure=stop)
                for b in (plain, box)
            )
            assert [r.outcome for r in there.results] == [r.outcome for r in here.results]
            assert [r.number for r in there.results] == [r.number for r in here.results]
            assert there.tests == len(tests)


@slow
def test_errors_of_a_job_or_a_checker_are_theirs_and_the_cage_goes_on(box):
    def broken(output, expected, given):
        raise KeyError("of the checker")

    with pytest.raises(CheckerError, match="of the checker"):
        judge(box, "print(1)", [StdinTest("", "1", rule=broken)])
    with pytest.raises(ValueError, match="JSON"):
        box.run(Job("pass", call=sandbox.Call("f", ({1},))))
    assert judge(box, "print(1)", [StdinTest("", "1")]).passed


@slow
def test_a_job_that_is_no_longer_wanted_is_stopped_and_its_cage_goes_on(box):
    unwanted = threading.Event()

    def wait():
        with sandbox.cancelled_by(unwanted):
            return box.run(Job("import time; time.sleep(600)", limits=sandbox.Limits(700)))

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait) for _ in range(box.cages)]
        time.sleep(1)
        unwanted.set()
        for job in waiting:
            with pytest.raises(Cancelled):
                job.result(60)
    assert box.run(Job("print(3)")).stdout == "3\n"


@slow
def test_an_iterator_that_is_left_stops_its_programs(box):
    forever = [("print(1)", [StdinTest("", "1")])] + [("while True: 1", [StdinTest("", "1")])] * 3
    judgments = judge_many(box, forever, limits=sandbox.Limits(cpu_seconds=600))
    assert next(judgments).passed
    judgments.close()
    assert box.run(Job("print(3)")).stdout == "3\n"


FAILING = """
from sandbox.core import CageFailure
from sandbox.local import Local

class Failing(Local):
    name = "failing"

    def start(self):
        cage = super().start()
        run = cage.run

        def fail(job, cancelled=None):
            if job.code == "fail":
                raise CageFailure("the cage broke")
            return run(job, cancelled)

        cage.run = fail
        return cage
"""


@slow
def test_a_cage_that_fails_is_no_verdict(cluster, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    within = f"{tmp_path}/failing.py:Failing"
    with sandbox.make("ray", cages=1, attempts=2, within=within) as box:
        with pytest.raises(
            SandboxError, match=r"but 2 of them failed .*the cage broke.*no.* verdict"
        ):
            box.run(Job("fail"))
        assert box.run(Job("print(42)")).stdout == "42\n"


@slow
def test_a_node_with_other_code_is_refused(cluster, monkeypatch):
    monkeypatch.setattr("sandbox.ray._code", lambda: "another")
    with pytest.raises(SandboxError, match="has another version of this project"):
        sandbox.make("ray", cages=1)


@slow
def test_each_node_tells_what_it_offers(cluster):
    from sandbox.factory import backends
    from sandbox.ray import nodes

    offers = nodes()
    assert [offer.cores for offer in offers] == [1, 1]
    works = {name for name, reason in backends().items() if reason is None}
    for offer in offers:
        assert {name for name, reason in offer.sandboxes.items() if reason is None} == works
        assert offer.problem is None


@slow
def test_a_forked_child_is_told_to_make_its_own(box):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            box.run(Job("print(1)"))
        except SandboxError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert b"A forked process cannot use" in os.read(reading, 4096)


@slow
def test_a_cluster_without_a_free_core_is_an_error_unless_cages_are_named(box):
    import ray

    class Busy:
        def wait(self):
            pass

    free = int(ray.available_resources().get("CPU", 0))
    busy = [ray.remote(num_cpus=1)(Busy).remote() for _ in range(free)]
    ray.get([actor.wait.remote() for actor in busy])
    with pytest.raises(ValueError, match="Expected free cores in the Ray cluster"):
        sandbox.make("ray")
    with sandbox.make("ray", cages=3) as sharing:
        assert sharing.cages == 3
        assert sharing.run(Job("print(1)")).stdout == "1\n"
    for actor in busy:
        ray.kill(actor)


@slow
def test_a_node_that_leaves_costs_no_job_its_result(cluster, box):
    """The last test here: the node does not come back."""
    box.close()
    node = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    programs = [(f"print({n})", [StdinTest("", f"{n}")]) for n in range(500)]
    programs[::7] = [(program, [StdinTest("", "no")]) for program, _ in programs[::7]]
    with sandbox.make("ray") as box:
        judgments = judge_many(box, programs)
        outcomes = [next(judgments).results[0] for _ in range(100)]
        cluster.remove_node(node, allow_graceful=False)
        outcomes += [judgment.results[0] for judgment in judgments]
        assert box.run(Job("print(3)")).stdout == "3\n"
    for n, result in enumerate(outcomes):
        assert result.execution.stdout == f"{n}\n"
        expected = Outcome.WRONG_ANSWER if n % 7 == 0 else Outcome.PASSED
        assert result.outcome is expected
    assert len(outcomes) == 500
