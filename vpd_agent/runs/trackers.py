"""Sends metrics to TensorBoard, W&B, trackio and others, through accelerate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.installation import install_hint, pip_install
from sandbox.plugins import unknown
from vpd_envs.data.provenance import leaves

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

FOLDER = "trackers"  # of a run's folder
_IN_EXTRA = ("tensorboard",)  # the trackers whose packages the extra `trackers` brings
_PACKAGES = {"comet_ml": "comet-ml"}  # where a package has another name than its tracker


class Trackers:
    """Open trackers, which all get the metrics of a run.

    Made by `open_trackers`. `log` takes a row of metrics, as the trainer's on_step gives it.
    """

    def __init__(self, trackers: Sequence[GeneralTracker]) -> None:
        self._trackers = list(trackers)

    def log(self, row: Mapping[str, Any]) -> None:
        values = {k: v for k, v in row.items() if k != "step" and isinstance(v, (int, float, str))}
        for tracker in self._trackers:
            tracker.log(values, step=row["step"])

    def close(self) -> None:
        """Make each tracker send and write what it still holds. May be called more than once."""
        while self._trackers:
            self._trackers.pop().finish()


def open_trackers(
    names: Sequence[str],
    out: Path,
    run_name: str,
    config: Mapping[str, Any],
    group: str = "",
) -> Trackers:
    """Open trackers by accelerate's names. Their files are in the folder `trackers` of a run.

    config: the run's configuration, nested or flat; it is stored with the run, and what is not a
    number, a bool or text in it as text.
    group: of runs that belong together, for W&B and trackio; "": none.
    W&B and trackio keep all runs under a project, which is `vpd` unless WANDB_PROJECT or
    TRACKIO_PROJECT names another. Without a network W&B works with WANDB_MODE=offline.

    To be called after the processes of a run have joined, by the first of them. Raises
    ValueError for an unknown name, ModuleNotFoundError where a package is missing.
    """
    check_trackers(names)
    if not names:
        return Trackers([])
    from accelerate import PartialState

    PartialState()  # some trackers use accelerate's logger, which needs this state
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    plain = (bool, int, float, str)
    flat = {name: v if isinstance(v, plain) else str(v) for name, v in leaves(config)}
    opened = [_start(name, folder.absolute(), run_name, group) for name in dict.fromkeys(names)]
    for tracker in opened:
        tracker.store_init_configuration(flat)
    return Trackers(opened)


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown name, and for one whose package is not installed."""
    if not names:
        return
    if find_spec("accelerate") is None:
        raise ValueError(f"--trackers needs accelerate: {install_hint('trackers')}")
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    available = set(map(str, get_available_trackers()))
    for name in names:
        if name not in known:
            raise ValueError(unknown("tracker", name, known))
        if name not in available:
            missing = _PACKAGES.get(name, name)
            how = install_hint("trackers") if name in _IN_EXTRA else pip_install(missing)
            raise ValueError(f"The tracker {name!r} needs a package that is not installed: {how}")


def _start(name: str, folder: Path, run_name: str, group: str) -> GeneralTracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    grouped = {"name": run_name} | ({"group": group} if group else {})
    if name == "wandb":
        tracker = kind(os.environ.get("WANDB_PROJECT", "vpd"), dir=folder, **grouped)
    elif name == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))  # read when it is imported
        tracker = kind(os.environ.get("TRACKIO_PROJECT", "vpd"), **grouped)
    elif kind.requires_logging_directory:
        tracker = kind(run_name, folder / name)
    else:
        tracker = kind(run_name)
    tracker.start()
    return tracker
