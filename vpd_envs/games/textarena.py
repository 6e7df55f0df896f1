"""TextArena: games for one player, of several moves, from the package `textarena`.

The games run in worker processes (see `vpd_envs.games.player` and `vpd_envs.workers.pool`).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import cached_property
from importlib import metadata
from typing import Any

from packaging.specifiers import SpecifierSet

from sandbox import plugins
from sandbox.core import SandboxError
from sandbox.installation import install_hint
from vpd_envs.answers.extraction import without_thinking
from vpd_envs.checks import check_choice, check_integer, check_positive
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict
from vpd_envs.workers.pool import (
    WorkerError,
    WorkerFailure,
    WorkerMemory,
    Workers,
    WorkerTimeout,
    shared_workers,
)

GAMES = (
    *("2048", "Blackjack", "Crosswords", "FrozenLake", "GuessTheNumber", "LightsOut"),
    *("LogicPuzzle", "Mastermind", "Minesweeper", "RushHour", "Secretary", "Sokoban", "Sudoku"),
)
_WORD_LISTS = "it needs word lists of nltk, which are downloaded at run time"
_LANGUAGE_MODEL = "a language model on the network plays the other side"
_ONE_POSITION = "it has one position, whatever the seed"
_NEWER_PYTHON = "its code needs Python 3.12"
NOT_OFFERED = {
    **dict.fromkeys(("Hangman", "WordLadder", "WordSearch", "Wordle"), _WORD_LISTS),
    **dict.fromkeys(("GuessWho", "TwentyQuestions"), _LANGUAGE_MODEL),
    **dict.fromkeys(("Countdown", "Cryptarithm", "PegJump", "TowerOfHanoi"), _ONE_POSITION),
    **dict.fromkeys(("Klondike", "UltimateTexasHoldem"), _NEWER_PYTHON),
    "Bandit": "its score is higher the worse the choice",
    "FifteenPuzzle": "half of its positions cannot be solved",
    "Set": "it takes one card three times for a set",
    "Slitherlink": "it does not say why a move is invalid",
    "ThreeCardMonte": "it has one move",
}
VERSIONS = SpecifierSet(">=0.7.4,<0.8")
LARGEST_SIZE = 1_000_000
UNFINISHED_THINKING = "The thinking never ended: the answer was cut off."


class TextArena(TextEnv):
    """`vpd/TextArena-v0`.

    game: 2048, Blackjack, Crosswords, FrozenLake, GuessTheNumber, LightsOut, LogicPuzzle,
        Mastermind, Minesweeper, RushHour, Secretary, Sokoban or Sudoku.
    size: how many games there are. Each has a seed of its own, and is made when it is first asked.
    split, dataset_seed: "train" and "test" have different seeds, and so has each `dataset_seed`
        from 0 on. A game with few different beginnings (GuessTheNumber has 20 numbers,
        LogicPuzzle 20 easy puzzles) still has the same ones in both.
    parameters: of the game, JSON values, such as {"max_number": 50} or {"target_tile": 64}; by
        default those of the package's variant without a suffix, such as Mastermind-v0.
    time_limit_seconds: for making one game, and for all moves of one episode.
    max_turns: answers that an episode may have; the game may end before.

    The prompt is the text of the game. Each answer, without its thinking, is one move, in the form
    that the game asks for; brackets around it may be left out. The feedback is what the game says
    of the move, and why if it is invalid (status `format_error`). Most games forgive one invalid
    move; two on end are lost.

    The reward is that of the last answer: 1 if the game is won, else the game's own score or, where
    `max_turns` cuts it off, its measure of progress, from 0 to 1. `info["metadata"]`: `game`,
    `index`. `info["details"]`: `over` (whether the game has ended), `score` (what the game says of
    the position, not clipped; None where it has no measure).

    A verdict depends on the moves before: `judge` reads them from `problem.earlier`, and the moves
    are all made again in a fresh copy of the game.

    Raises, beside what every `TextEnv` does:
        ValueError: the package is missing or of another version; an unknown game or parameter.
        SandboxError, also from `reset`: a game could not be made within its limits.
    """

    def __init__(
        self,
        game: str = "GuessTheNumber",
        *,
        size: int = 1000,
        split: str = "train",
        dataset_seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
        time_limit_seconds: float = 20.0,
        max_turns: int = 30,
        render_mode: str | None = None,
    ) -> None:
        check_choice("split", split, ("train", "test"))
        check_integer("size", size, 1)
        if size > LARGEST_SIZE:
            raise ValueError(f"size must be at most {LARGEST_SIZE}, got {size}.")
        check_integer("dataset_seed", dataset_seed, 0)
        check_positive(time_limit_seconds=time_limit_seconds)
        check_package()
        game = str(game)  # 2048 comes as a number from a command line
        _check_game(game)
        given = _json_text({} if parameters is None else parameters)
        self.table = Table(game, given, time_limit_seconds)
        self.table.check()
        self._origin = split, dataset_seed, size
        first_seed = 2 * dataset_seed * LARGEST_SIZE + (split == "test")
        games = (Game(self.table, split, index, first_seed + 2 * index) for index in range(size))
        super().__init__(games, max_turns=max_turns, render_mode=render_mode)

    @property
    def workers(self) -> int:
        return self.table.workers.size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the package's version and the game: without making all its beginnings."""
        told = (check_package(), *self.table.key, *self._origin)
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def after(self, problem: Problem, answer: str) -> Problem:
        later = copy.copy(problem)
        vars(later).update(earlier=(*problem.earlier, answer))  # a Problem is frozen
        return later

    def ends(self, verdict: Verdict, turn: int) -> bool:
        return verdict.details.get("over", False) or super().ends(verdict, turn)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        assert isinstance(problem, Game)
        if without_thinking(answer) is None:  # no move, as in `_moves`
            details = {"over": False, "score": None}
            return Verdict(0.0, Status.NO_ANSWER, UNFINISHED_THINKING, details)
        moves = self._moves(*problem.earlier)
        try:
            said = self.table.ask(problem.seed, *moves, *self._moves(answer))
        except (WorkerTimeout, WorkerMemory) as failure:
            self.table.said(problem.seed, *moves)  # raises SandboxError if it was not this move
            slow = isinstance(failure, WorkerTimeout)
            status = Status.TIME_LIMIT if slow else Status.MEMORY_LIMIT
            took = f"took the game more {'time' if slow else 'memory'} than it has"
            details = {"over": True, "score": None}
            return Verdict(0.0, status, f"Your move {took}: the game is over.", details)
        except WorkerFailure as failure:
            raise SandboxError(f"The game {self.table.game} failed: {failure}") from failure
        return _verdict(said, empty=not answer.strip())

    def _moves(self, *answers: str) -> list[str]:
        """Of the answers that were judged as moves."""
        texts = [without_thinking(a) for a in answers if len(a) <= self.action_space.max_length]
        return [text.strip() for text in texts if text is not None]


def _verdict(said: Mapping[str, Any], *, empty: bool) -> Verdict:
    """From what `player.reply` gives."""
    score = said["score"]
    if said["invalid"]:
        status = Status.EMPTY_ANSWER if empty else Status.FORMAT_ERROR
    else:
        status = Status.SOLVED if said["over"] and score >= 1 else Status.WRONG_ANSWER
    reward = min(max(score or 0.0, 0.0), 1.0)
    return Verdict(reward, status, said["text"], {"over": said["over"], "score": score})


@dataclasses.dataclass(frozen=True)
class Table:
    """A game with its parameters, as worker processes are told of it."""

    game: str
    parameters: str  # JSON text
    time_limit_seconds: float

    @property
    def workers(self) -> Workers:
        return shared_workers(
            "vpd_envs.games.player:reply",
            setup="vpd_envs.games.player:load_package",
            timeout_seconds=self.time_limit_seconds,
        )

    @property
    def key(self) -> tuple[str, str]:
        return self.game, self.parameters

    def ask(self, seed: int, *moves: str) -> dict[str, Any]:
        """What `player.reply` gives in a worker. Raises WorkerFailure and SandboxError."""
        return self.workers.call(*self.key, seed, *moves)

    def said(self, seed: int, *moves: str) -> dict[str, Any]:
        """The same. Raises SandboxError, also where the worker gave no value."""
        try:
            return self.ask(seed, *moves)
        except WorkerFailure as failure:
            raise SandboxError(
                f"The game {self.game} of seed {seed} could not be made after {len(moves)} moves: "
                f"{failure} Choose parameters for a smaller game, or a higher time_limit_seconds."
            ) from failure

    def check(self) -> None:
        """Raises ValueError for parameters that the game does not take."""
        try:
            self.ask(0)
        except WorkerError as error:
            if error.kind == "ParameterError":
                raise ValueError(str(error)) from error
            raise ValueError(
                f"{self.game} does not take the parameters {self.parameters}: {error.kind}, {error}"
            ) from error
        except WorkerFailure as failure:
            raise ValueError(
                f"{self.game} could not be made with the parameters {self.parameters}: {failure} "
                "Choose a smaller game, or a higher time_limit_seconds."
            ) from failure


class Game(Problem):
    """A game that is made when its text is first needed: some take seconds."""

    table: Table
    seed: int

    def __init__(self, table: Table, split: str, index: int, seed: int) -> None:
        metadata = {"game": table.game, "index": index}
        # A Problem is frozen.
        vars(self).update(
            id=f"{table.game}-{split}-{index}", metadata=metadata, table=table, seed=seed
        )

    @cached_property
    def prompt(self) -> str:
        return self.table.said(self.seed)["text"]

    @property
    def target(self) -> None:
        """The game knows how it ends; nothing else does."""


def check_package() -> str:
    """The package's version. Raises ValueError unless it is here, in a version that we know."""
    needed = f"vpd/TextArena-v0 needs the package textarena{VERSIONS}"
    if importlib.util.find_spec("textarena") is None:
        raise ValueError(f"{needed}, which is not installed: {install_hint('games')}")
    version = metadata.version("textarena")
    if version not in VERSIONS:
        raise ValueError(f"{needed}, but {version} is installed: {install_hint('games')}")
    return version


def _check_game(game: str) -> None:
    if game in NOT_OFFERED:
        raise ValueError(
            f"TextArena's {game} is not offered: {NOT_OFFERED[game]}. There are {', '.join(GAMES)}."
        )
    if game not in GAMES:
        raise ValueError(plugins.unknown("game of TextArena:", game, GAMES))


def _json_text(parameters: Any) -> str:
    try:
        if not isinstance(parameters, Mapping):
            raise TypeError
        return json.dumps(dict(parameters), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'parameters must be names with JSON values, such as {{"max_turns": 5}}; got '
            f"{parameters!r:.100}."
        ) from error


vector = TextArena.vector  # gymnasium's entry points cannot name a class attribute
