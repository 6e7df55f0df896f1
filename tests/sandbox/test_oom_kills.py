"""Whether a kill for want of memory is held against the job: over files as the kernel writes them.

What can be had for real, a container at its limit, is in test_limits.py.
"""

import pytest

from sandbox.runner import OomKills


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    (tmp_path / "vmstat").write_text("nr_free_pages 8\noom_kill 5\n")
    monkeypatch.setattr(OomKills, "GROUP", str(tmp_path))
    monkeypatch.setattr(OomKills, "MACHINE", str(tmp_path / "vmstat"))
    return tmp_path


def version_2(kernel, oom=2, oom_kill=3):
    events = f"low 0\nhigh 0\nmax 9\noom {oom}\noom_kill {oom_kill}\noom_group_kill 0\n"
    (kernel / "memory.events").write_text(events)


def version_1(kernel, oom=2, oom_kill=3):
    control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom_kill}\n"
    (kernel / "memory/memory.oom_control").write_text(control)


@pytest.fixture(params=[version_1, version_2])
def group(request):
    """Writes what a control group tells, of either version."""
    return request.param


def test_in_a_control_group_at_its_limit_it_is_the_job(kernel, group):
    group(kernel)
    kills = OomKills(own_group=True)
    assert not kills.happened()
    group(kernel, oom=3, oom_kill=4)
    assert kills.happened()
    kills.begin()
    assert not kills.happened()


def test_below_its_limit_it_is_the_machine_as_far_as_the_group_tells(kernel):
    version_2(kernel)
    kills = OomKills(own_group=True)
    version_2(kernel, oom_kill=4)
    with pytest.raises(RuntimeError, match="the machine was out of memory"):
        kills.happened()


def test_a_limit_reached_without_a_kill_is_none(kernel, group):
    group(kernel)
    kills = OomKills(own_group=True)
    group(kernel, oom=3)
    assert not kills.happened()


def test_without_a_group_of_its_own_any_kill_on_the_machine_counts(kernel, group):
    group(kernel)
    kills = OomKills(own_group=False)
    group(kernel, oom=3, oom_kill=4)
    assert not kills.happened()
    (kernel / "vmstat").write_text("nr_free_pages 8\noom_kill 6\n")
    with pytest.raises(RuntimeError, match="the machine was out of memory"):
        kills.happened()


def test_a_kernel_that_tells_nothing_is_believed(kernel):
    (kernel / "vmstat").unlink()
    assert not OomKills(own_group=True).happened()
