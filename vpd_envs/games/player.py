"""Plays the games of the package `textarena`: this module's functions run in worker processes.

A game is made anew from its name, parameters and seed, and all moves of the episode are made again.
So nothing depends on which process answers, or on what it has played before. The games draw from
Python's global generator, also within a move; only here, where nothing else does.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import random
from functools import lru_cache
from typing import Any

from sandbox import plugins

STARTED_GAMES = 64  # kept as they began: to make one may take seconds


class ParameterError(ValueError):
    """The game has no parameter of that name, or none of that type."""


def load_package() -> None:
    """Before the first call, which would else pay for it out of its time and memory."""
    import textarena  # noqa: F401


def reply(game: str, parameters: str, seed: int, *moves: str) -> dict[str, Any]:
    """What the game says at its beginning, or of the last of these moves: the arguments and values
    are JSON values.

    `text`; `invalid`: whether the game refused the move; `over`; `score`: what the game gives as
    reward, or, before its end, as its measure of progress (None where it has none).

    Raises ParameterError, and whatever the game raises while it is made.
    """
    env, randomness = _started(game, parameters, seed)
    env = copy.deepcopy(env)
    random.setstate(randomness)
    said = {"text": _heard(env), "invalid": False, "over": False, "score": _progress(env)}
    for move in moves:
        said = _moved(env, move)
    return said


@lru_cache(STARTED_GAMES)
def _started(game: str, parameters: str, seed: int) -> tuple[Any, Any]:
    """The game at its beginning, and the state of the random generator then."""
    import textarena

    id_ = f"{game}-v0-raw"  # without the wrappers that repeat the whole conversation each time
    chosen = json.loads(parameters)
    _check_parameters(game, id_, chosen)
    random.seed(seed)  # some are made before `reset` looks at its seed
    env = textarena.make(id_, **chosen)
    env.reset(num_players=1, seed=seed)
    return env, random.getstate()


def _check_parameters(game: str, id_: str, chosen: dict[str, Any]) -> None:
    """Raise ParameterError for a name that the game does not know, or a value of another type than
    the package's own."""
    from textarena.envs.registration import ENV_REGISTRY

    spec = ENV_REGISTRY[id_]
    module, _, name = str(spec.entry_point).partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    usual = {key: value.default for key, value in signature.parameters.items()} | spec.kwargs
    for key, value in chosen.items():
        if key not in usual:
            raise ParameterError(plugins.unknown(f"parameter of {game}:", key, usual))
        if _json_type(value) is not _json_type(usual[key]):
            raise ParameterError(
                f"The parameter {key} of {game} must be like {usual[key]!r}, which is the "
                f"package's own; got {value!r:.100}."
            )


def _json_type(value: Any) -> type:
    return list if isinstance(value, tuple) else type(value)


def _moved(env: Any, move: str) -> dict[str, Any]:
    bracketed = move if "[" in move or "]" in move else f"[{move}]"  # as the package's wrappers do
    try:
        over, _ = env.step(bracketed)
    except Exception:  # a number of 5,000 digits, say
        _heard(env)
        said = "The game could not read this move. Keep to the form that it asks for."
        return {"text": said, "invalid": True, "over": False, "score": _progress(env)}
    state = env.state
    texts = [_heard(env)]
    if over:
        texts.append(state.game_info[0].get("reason") or "")
    return {
        "text": "\n\n".join(filter(None, texts)),
        "invalid": state.error_count > 0 or state.game_info[0]["invalid_move"],
        "over": over,
        "score": float(state.rewards[0]) if over else _progress(env),
    }


def _heard(env: Any) -> str:
    """What the game has said since it was last asked, without what the player said."""
    from textarena import ObservationType

    _, messages = env.get_observation()
    told = (text.strip() for _, text, kind in messages if kind != ObservationType.PLAYER_ACTION)
    return "\n\n".join(filter(None, told))


def _progress(env: Any) -> float | None:
    measure = getattr(env, "_get_percentage_completion", None)
    return None if measure is None else float(measure())
