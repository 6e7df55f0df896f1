"""A model that is not there, or damaged, is told in a sentence that names the folder or file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from agent.helpers import small_policy
from vpd_agent.cli.main import main
from vpd_agent.model.policy import Policy
from vpd_agent.model.source import PRESETS, find_model, load_model
from vpd_agent.tiny.warmup import RECIPES
from vpd_agent.train.presets import is_tiny

TRAIN = ("train", "grpo", "--env", "vpd/MiniChoice-v0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A whole model in two files."""
    path = tmp_path_factory.mktemp("model")
    policy = small_policy()
    policy.save(path)
    (path / "model.safetensors").unlink()
    size = sum(w.numel() * w.itemsize for w in policy.parameters())
    policy.model.save_pretrained(path, max_shard_size=size // 2)
    return path


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def first_file(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def cut(folder: Path) -> str:
    file = first_file(folder)
    os.truncate(file, file.stat().st_size // 2)
    return f"{file} is damaged or incomplete"


def empty(folder: Path) -> str:
    first_file(folder).write_bytes(b"")
    return f"{first_file(folder)} is damaged or incomplete"


def remove(folder: Path) -> str:
    first_file(folder).unlink()
    return "model-00001-of-"


def spoil_the_index(folder: Path) -> str:
    (folder / "model.safetensors.index.json").write_text("{")
    return "model.safetensors.index.json is damaged or incomplete"


def widen(folder: Path) -> str:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    wide = {"intermediate_size": config["intermediate_size"] + 1}
    path.write_text(json.dumps(config | wide))
    return f"({config['hidden_size']}, {wide['intermediate_size']}) by the configuration"


def take_a_weight(folder: Path) -> str:
    file = max(folder.glob("model-*.safetensors"))
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("norm.weight"))
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    return f"lacks 1 of the weights of a Qwen3ForCausalLM, such as {name}"


def spoil_the_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": ')
    return f"{folder / 'config.json'} is damaged"


def be_no_language_model(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "vit"}')
    return "AutoModelForCausalLM"


def take_the_tokenizer(folder: Path) -> str:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return "has no tokenizer"


def cut_the_tokenizer(folder: Path) -> str:
    os.truncate(folder / "tokenizer.json", 100)
    return f"{folder / 'tokenizer.json'} is damaged or incomplete"


DAMAGES = (
    *(cut, empty, remove, spoil_the_index, widen, take_a_weight, spoil_the_config),
    *(be_no_language_model, take_the_tokenizer, cut_the_tokenizer),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_a_folder_is_named(folder, damage):
    said = damage(folder)
    with pytest.raises(ValueError, match="copy") as error:
        Policy.load(str(folder))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_model_loads_from_several_files(saved):
    assert load_model(find_model(str(saved)), "auto").num_parameters() == sum(
        w.numel() for w in small_policy().parameters()
    )


# --- runs ---------------------------------------------------------------------------------------


def test_the_folder_of_a_run_stands_for_its_final_model(saved, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(saved, run / "model")
    (run / "config.json").write_text('{"algorithm": {"name": "grpo"}}')
    assert find_model(str(run)) == str(run / "model")
    assert is_tiny(str(run)) == is_tiny(str(run / "model"))
    arguments = ("--env", "vpd/MiniChoice-v0", "--problems", "2", "--max-response-tokens", "2")
    assert main(["eval", "--model", str(run), *arguments]) == 0
    assert f"{run / 'model'} is taken" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("there", ["best", "checkpoints/000020/model"])
def test_a_run_without_a_final_model_is_told_what_it_has(saved, tmp_path, there):
    shutil.copytree(saved, tmp_path / there)
    (tmp_path / "config.json").write_text('{"algorithm": {"name": "grpo"}}')
    with pytest.raises(ValueError, match="no final model yet") as error:
        find_model(str(tmp_path))
    assert f"--model {tmp_path / there}," in str(error.value)


# --- names --------------------------------------------------------------------------------------


def test_the_presets_are_those_of_the_commands():
    assert ("tiny", *RECIPES) == PRESETS
    assert len(RECIPES) == 14


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-warn", "Did you mean 'tiny-warm'?"),
        ("Tiny_Warm", "Did you mean 'tiny-warm'?"),
        ("tinycode", "Did you mean 'tiny-code'?"),
        ("tiny-choise-cold", "Did you mean 'tiny-choice-cold'?"),
        ("tiny-function", "Did you mean 'tiny-function-"),
        ("smollm", "Did you mean 'smollm2'?"),
        ("SmolLM2-135M-Instruct", "Did you mean 'smollm2'?"),
        ("tiny-0", "or one of tiny, tiny-warm, tiny-cold,"),
        ("./nowhere", "There is no model folder './nowhere'"),
        ("/nowhere/model", "There is no model folder '/nowhere/model'"),
        ("runs/a/model", "There is no model folder 'runs/a/model'"),
        ("ruins/", "There is no model folder 'ruins/'"),
        ("runs/modle", "Did you mean 'runs/model'?"),
        ("no model of that name", "here or on the hub"),
        ("file", "is a file"),
        (".", "has no config.json of a model"),
    ],
)
def test_a_wrong_name_is_told_without_asking_the_hub(broken_hub, tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/model").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="model") as error:
        find_model(name)
    assert said in str(error.value)
    assert broken_hub == []


@pytest.fixture
def broken_hub(monkeypatch):
    """A hub that hangs up on whoever asks; the list of those who did."""
    import huggingface_hub.constants

    callers = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            with contextlib.suppress(OSError):  # until the server is closed
                while True:
                    connection, caller = server.accept()
                    callers.append(caller)
                    connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield callers
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_hub_that_does_not_answer_is_asked_once(broken_hub):
    """Its own client would ask for each file six times."""
    with pytest.raises(ValueError, match="could not be asked"):
        find_model("somebody/some-model")
    assert len(broken_hub) == 1


def test_what_the_hub_gave_earlier_is_taken_where_it_does_not_answer(
    broken_hub, saved, tmp_path, monkeypatch
):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--somebody--some-model"
    shutil.copytree(saved, cached / "snapshots/abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    assert find_model("somebody/some-model") == str(cached / "snapshots/abc")


# --- devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:99", "quda", "meta", "cpu:x"])
def test_a_device_that_cannot_be_used_ends_a_command_before_any_work(tmp_path, capsys, device):
    out = tmp_path / "out"
    assert main([*TRAIN, "--model", "tiny", "--device", device, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"--device {device} cannot be used here, with torch" in said
    assert not out.exists()
