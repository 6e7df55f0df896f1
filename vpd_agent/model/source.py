"""Where a model comes from, a folder or the Hugging Face hub, and what is wrong if it does not.

Transformers, safetensors and the hub's client raise dozens of kinds of errors, some of them after a
minute of retries. Here each becomes a ValueError that names the folder, the file or the weight; and
what can be told from a name alone is told before the hub is asked.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.model import smollm2
from vpd_agent.runs.run_folder import BEST, CHECKPOINTS, MODEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vpd_agent.model.chat import Tokenizer

PRESETS = (
    "tiny",
    "tiny-warm",
    "tiny-cold",
    "tiny-rigid-warm",
    "tiny-function-warm",
    "tiny-function-cold",
    "tiny-function-rigid-warm",
    "tiny-choice-warm",
    "tiny-choice-cold",
    "tiny-choice-rigid-warm",
    "tiny-arithmetic-warm",
    "tiny-arithmetic-cold",
    "tiny-arithmetic-rigid-warm",
    "tiny-game-warm",
    "tiny-code",
)
HUB_SECONDS = 10.0  # for the hub to say whether it has a model
LONGEST_REASON = 300  # characters of another library's error
EXPECTED = (
    f"Pass a folder that save_pretrained wrote, a model of the Hugging Face hub (OWNER/NAME), "
    f"{smollm2.NAME} (SmolLM2-135M-Instruct, from the package index), or one of "
    f"{', '.join(PRESETS)}."
)


def find_model(name: str) -> str:
    """The folder of a model, or its name where transformers is to load it from the hub.

    The folder of a run, or of a checkpoint, stands for the model in it. Where the hub does not
    answer, the copy that it gave earlier is taken. smollm2 is fetched if it is not in the cache; a
    folder of that name is ./smollm2.

    Raises ValueError if there is no such model, at once or after HUB_SECONDS.
    """
    if name == smollm2.NAME:
        return str(smollm2.model_folder())
    return str(_folder_of(name) or _on_hub(name))


def model_at_hand(name: str) -> Path | None:
    """The folder of a model that is here, in a folder or in a cache; None without one. Nothing is
    fetched, and the hub is not asked. Raises ValueError for a name that is wrong whatever the hub
    has."""
    if name == smollm2.NAME:
        return smollm2.cached()
    return _folder_of(name) or _cached(name)


def _folder_of(name: str) -> Path | None:
    """The folder of a model; None for what may be a name on the hub."""
    path = Path(name).expanduser()
    if path.exists():
        return _model_in(path)
    if name in PRESETS:
        raise ValueError(
            f"{name!r} is a preset of the commands. In Python it is "
            f"vpd_agent.tiny.model.tiny_policy(), or "
            f"vpd_agent.tiny.warmup.warm_policy(RECIPES[{name!r}]) for a warm-started one."
        )
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise ValueError(f"There is no model folder {name!r}.{_close_folder(path)} {EXPECTED}")
    close = _close_folder(path) or _close_preset(name)
    if close or name.startswith("tiny-"):
        raise ValueError(f"There is no model {name!r}.{close} {EXPECTED}")
    return None


def load_tokenizer(source: str) -> Tokenizer:
    """source: what `find_model` gave. Raises ValueError if it has none that can be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise ValueError(_unloadable("tokenizer", source, error)) from error
    if not len(tokenizer) or not tokenizer("a b").input_ids:
        raise ValueError(
            f"Model {source!r} has no tokenizer. Save one beside it with "
            f"tokenizer.save_pretrained({source!r})."
        )
    return tokenizer


def load_model(source: str, dtype: str, device: str = "cpu") -> PreTrainedModel:
    """source: what `find_model` gave; dtype: see `Policy.load`.

    Raises ValueError for a damaged file, and for files that are not all of a causal language model
    (transformers alone would give it random weights in their place).
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        model, found = loaded  # of which transformers' own types do not know
    except Exception as error:
        raise ValueError(_unloadable("model", source, error)) from error
    for name, saved, expected in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"The weights of model {source!r} do not fit its config.json: {name} is "
            f"{tuple(saved)} in the file, {tuple(expected)} by the configuration."
        )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"Model {source!r} lacks {len(missing)} of the weights of a {type(model).__name__}, "
            f"such as {missing[0]}. Is a file missing, or is it the body of a model without the "
            f"layer that gives its logits?"
        )
    return model.to(device)


# --- folders ------------------------------------------------------------------------------------


def _model_in(path: Path) -> Path:
    """A folder that transformers loads: this one, or the one of a run or checkpoint in it."""
    if not path.is_dir():
        raise ValueError(f"The model {str(path)!r} is a file. {EXPECTED}")
    for folder in (path, path / MODEL):
        if _is_model(folder):
            return folder
    there = [*sorted((path / CHECKPOINTS).glob(f"*/{MODEL}"), reverse=True), path / BEST]
    for folder in filter(_is_model, there):
        raise ValueError(
            f"{str(path)!r} is the folder of a run that has no final model yet. Pass --model "
            f"{folder}, or finish the run with vpd train … --resume."
        )
    raise ValueError(f"The model folder {str(path)!r} has no config.json of a model. {EXPECTED}")


def _is_model(folder: Path) -> bool:
    """By its config.json; the one of a run has no type of a model."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    return isinstance(config, dict) and bool({"model_type", "architectures"} & set(config))


def _close_folder(path: Path) -> str:
    if not path.parent.is_dir() or path.parent == Path():
        return ""
    folders = [folder.name for folder in path.parent.iterdir() if folder.is_dir()]
    return _hint(path.name, folders, lambda name: str(path.parent / name), cutoff=0.6)


def _close_preset(name: str) -> str:
    if "/" in name:
        return ""
    name = name.lower()
    if name.startswith(smollm2.NAME):  # by the name that it has elsewhere
        name = smollm2.NAME
    return _hint(name, (*PRESETS, smollm2.NAME), str, cutoff=0.8)


def _hint(name: str, known: Iterable[str], full: Callable[[str], str], cutoff: float) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f" Did you mean {full(close[0])!r}?" if close else ""


# --- the hub ------------------------------------------------------------------------------------


def _on_hub(name: str) -> str:
    """The name, if the hub has it; the folder of the copy in its cache where it does not answer."""
    from huggingface_hub import model_info
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        model_info(name, timeout=HUB_SECONDS)
    except HFValidationError as error:
        raise ValueError(f"There is no model {name!r}, here or on the hub. {EXPECTED}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no model {name!r}: it is no folder here, and the Hugging Face hub has none "
            f"of that name that you may see (if it is private: hf auth login). {EXPECTED}"
        ) from error
    except Exception as error:  # no network, a proxy, a hub that is down
        folder = _cached(name)
        if folder is None:
            raise ValueError(
                f"There is no model {name!r}: it is no folder here, and the Hugging Face hub could "
                f"not be asked ({_reason(error)}). {EXPECTED}"
            ) from error
        return str(folder)
    return name


def _cached(name: str) -> Path | None:
    """The folder in the hub's cache with what was downloaded of a model earlier."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


# --- what is wrong ------------------------------------------------------------------------------


def _unloadable(what: str, source: str, error: Exception) -> str:
    folder = Path(source) if Path(source).is_dir() else _cached(source)
    damaged = _damaged_file(folder) if folder is not None else None
    if damaged is None:
        return f"The {what} of {source!r} could not be loaded: {_reason(error)}"
    path, reason = damaged
    return (
        f"The {what} of {source!r} could not be loaded: {path} is damaged or incomplete "
        f"({_reason(reason)}). Copy, download or save it again."
    )


def _damaged_file(folder: Path) -> tuple[Path, Exception] | None:
    for suffix, read in READERS.items():
        for path in sorted(folder.glob(f"*{suffix}")):
            try:
                read(path)
            except Exception as error:
                return path, error
    return None


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt"):  # checks its length against its header
        pass


def _read_pickle(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="meta", weights_only=True)


READERS = {".json": _read_json, ".safetensors": _read_safetensors, ".bin": _read_pickle}


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]} …"
