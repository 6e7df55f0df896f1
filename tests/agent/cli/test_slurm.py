"""The jobs of recipes/slurm, with stand-ins for SLURM and for the programs that need GPUs. What
they would train is dry-run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpd_agent.cli.main import main

ROOT = Path(__file__).parents[3]
JOBS = sorted((ROOT / "recipes/slurm").glob("*.sbatch"))
RECIPE = "recipes/livecodebench-qwen3-8b.yaml"
OUT = "runs/livecodebench-qwen3-8b/vpd"

# Runs the first task of a step; notes who is run, where, and with what of SLURM's variables.
SRUN = """
import json, os, sys
options = [a for a in sys.argv[1:]]
count = next(i for i, a in enumerate(options) if not a.startswith("--"))
options, command = options[:count], options[count:]
os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SRUN": json.dumps(options)}
os.execvp(command[0], command)
"""
NOTE = """
import json, os, signal, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES",
         "VLLM_SERVER_DEV_MODE")
note = {"argv": sys.argv, "srun": json.loads(os.environ.get("SRUN", "[]")),
        "environment": {n: os.environ[n] for n in names if n in os.environ}}
if "train" in sys.argv and os.environ.get("LAST"):  # until it is told to stop
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit(130)))
with open(os.environ["NOTES"], "a") as file:
    file.write(json.dumps(note) + "\\n")
while "train" in sys.argv and os.environ.get("LAST"):
    time.sleep(0.05)
"""
HOSTS = (
    'if sys.argv[1:3] == ["show", "hostnames"]: print(sys.argv[3].replace(",", "\\n")); sys.exit()'
)


@pytest.fixture
def project(tmp_path):
    """A folder like this project's, with stand-ins on the path."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    stand_ins = {"srun": SRUN, "scontrol": f"import sys\n{HOSTS}\n{NOTE}"}
    stand_ins |= dict.fromkeys(("vpd", "ray", "vllm"), NOTE)
    stand_ins["curl"] = ""
    (tmp_path / "bin").mkdir()
    for name, program in stand_ins.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!{sys.executable}\n{program}")
        file.chmod(0o755)
    return tmp_path


def start(job: str, project: Path, nodes: str, *flags: str, **variables: str) -> subprocess.Popen:
    environment = os.environ | {
        "PATH": f"{project}/bin:{os.environ['PATH']}",
        "VPD": f"{project}/bin/vpd",
        "NOTES": f"{project}/notes",
        "SLURM_SUBMIT_DIR": str(project),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_ON_NODE": "16",
        **variables,
    }
    command = ["bash", str(ROOT / "recipes/slurm" / job), "vpd", RECIPE, *flags]
    return subprocess.Popen(
        command, env=environment, cwd="/", stderr=subprocess.PIPE, start_new_session=True
    )


def notes(project: Path) -> list[dict]:
    file = project / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run(job: str, project: Path, nodes: str, *flags: str, **variables: str) -> list[dict]:
    process = start(job, project, nodes, *flags, **variables)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0, said
    return notes(project)


def of(name: str, found: list[dict]) -> list[dict]:
    return [note for note in found if Path(note["argv"][0]).name == name]


def flags_of(note: dict) -> list[str]:
    return note["argv"][1:]


def dry_run(note: dict, capsys, monkeypatch, tmp_path) -> str:
    """What the command of a job says with --dry-run."""
    monkeypatch.chdir(tmp_path)
    for name, value in note["environment"].items():
        monkeypatch.setenv(name, value)
    assert main([*flags_of(note), "--dry-run"]) == 0
    return capsys.readouterr().out


def test_on_one_node_each_gpu_has_a_process(project, capsys, monkeypatch):
    [note] = of("vpd", run("one-node.sbatch", project, "a", "--steps", "9"))
    assert note["environment"] == {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a",
    }  # fmt: skip
    assert {"--ntasks=2", "--nodes=1", "--cpus-per-task=8"} <= set(note["srun"])
    said = dry_run(note, capsys, monkeypatch, project)
    assert OUT in said


def test_the_same_command_goes_on_with_what_has_begun(project):
    out = project / OUT
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    [note] = of("vpd", run("one-node.sbatch", project, "a"))
    assert "--resume" in flags_of(note)


def test_a_job_whose_time_is_over_lets_the_run_end_and_queues_again(project):
    process = start("one-node.sbatch", project, "a", LAST="yes")
    until = time.monotonic() + 60
    while not notes(project) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # as `--signal=B:TERM@600`
    process.communicate(timeout=60)
    assert process.returncode == 130
    train, queued = notes(project)
    assert train["argv"][1] == "train"
    assert flags_of(queued) == ["requeue", "7"]


def test_several_nodes_train_sample_and_judge(project, capsys, monkeypatch):
    with_ray = ("--sandbox", "ray")
    found = run("many-nodes.sbatch", project, "a,b,c,d", *with_ray, MODEL="m/M", TRAINERS="2")
    [train] = of("vpd", found)
    assert train["environment"]["WORLD_SIZE"] == "4"
    assert "--nodelist=a,b" in train["srun"]
    assert train["environment"]["RAY_ADDRESS"] == "a:6379"
    flags = flags_of(train)
    servers = "http://c:8000,http://c:8001,http://d:8000,http://d:8001"
    assert flags[flags.index("--engine") + 1] == servers
    weights = Path(flags[flags.index("--weights-folder") + 1])
    assert weights.parent == project / "runs"
    assert not weights.exists()  # it is removed at the end
    dry_run(train, capsys, monkeypatch, project)

    [server] = of("vllm", found)
    assert {"--nodelist=c,d", "--ntasks-per-node=2"} <= set(server["srun"])
    assert flags_of(server)[:2] == ["serve", "m/M"]
    assert flags_of(server)[-2:] == ["--port", "8000"]
    assert server["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert server["environment"]["CUDA_VISIBLE_DEVICES"] == "0"

    starts = [note for note in of("ray", found) if note["argv"][1] == "start"]
    where = {next(o for o in note["srun"] if o.startswith("--nodelist=")) for note in starts}
    assert where == {"--nodelist=a", "--nodelist=b,c,d"}
    assert all("--num-cpus=14" in note["argv"] for note in starts)


def test_without_programs_to_judge_no_ray_is_started(project):
    found = run("many-nodes.sbatch", project, "a,b", MODEL="m/M")
    assert not of("ray", found)
    [train] = of("vpd", found)
    assert "RAY_ADDRESS" not in train["environment"]


def test_a_job_without_a_node_that_samples_is_refused(project):
    process = start("many-nodes.sbatch", project, "a", MODEL="m")
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2
    assert "--nodes must be more than TRAINERS=1" in said


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_scheduler_would_take_it(job, tmp_path):
    if shutil.which("sbatch") is None:
        lines = [line for line in job.read_text().splitlines() if line.startswith("#SBATCH")]
        assert all(line.split()[1].startswith("--") for line in lines)
        assert any("--signal=B:TERM@600" in line for line in lines)
    else:
        subprocess.run(["sbatch", "--test-only", str(job), "vpd", RECIPE], check=True, cwd=ROOT)
