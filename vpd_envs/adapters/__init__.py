"""The suite's environments in the shapes that other libraries ask for.

`vpd_envs.adapters.trl` and `trl_sdpo` for TRL's trainers, `ms_swift` for those of ms-swift,
`verifiers` for the verifiers library. Importing this package loads none of them.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from packaging.version import Version

from sandbox.installation import pip_install
from vpd_envs.catalog import make
from vpd_envs.text_env import TextEnv, TextVectorEnv

CHECKS = (OrderEnforcing, PassiveEnvChecker)  # what gym.make adds; they change nothing


def text_env(env: str | gym.Env | VectorEnv, **options: Any) -> TextEnv:
    """The environment that judges: made with these options by its id, or the one inside `env`.

    Raises ValueError for wrappers, whose changes to rewards or feedback an adapter would lose.
    """
    if isinstance(env, str):
        env = make(env, **options)
    elif options:
        raise ValueError(
            f"The options {', '.join(options)} are for an environment given by its id; {env} is "
            "made already."
        )
    while isinstance(env, CHECKS):
        env = env.env
    if isinstance(env, TextVectorEnv):
        env = env.env
    if not isinstance(env, TextEnv):
        raise ValueError(
            f"Expected the id of a text environment, or a TextEnv or TextVectorEnv without "
            f"wrappers around it; got {env!r:.200}."
        )
    return env


def installed_version(package: str, library: str, needed: str) -> Version:
    """Of the library that an adapter is for. Raises ImportError if it is not installed.

    needed: what pip is asked for, such as "trl>=1.8,<2".
    """
    try:
        return Version(metadata.version(package))
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            f"This adapter is for {library}, which is not installed: {pip_install(needed)}"
        ) from error
