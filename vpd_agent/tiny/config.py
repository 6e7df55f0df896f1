"""What decides how a tiny model is warmed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class WarmupConfig:
    """The recipe of a model for one of the Mini tasks; the defaults are those of tiny-warm."""

    task: str = "code"
    """A name of `TASKS`."""
    steps: int = 180
    batch_size: int = 128
    learning_rate: float = 2e-3
    known_names: int = 8
    """Names per slot whose digit is taught; the others get a fresh random one in each example."""
    teacher_share: float = 0.5
    """Examples with a teacher prompt; 0 for a cold start, which has no skill of reading it."""
    copy_share: float = 0.1
    """Teacher examples whose attempt was right and is to be repeated."""
    malformed_share: float = 0.2
    """Teacher examples whose attempt is not read: malformed, or in a form that does not count."""
    ignore_share: float = 0.6
    """Other teacher examples whose target ignores the feedback."""
    rigid: bool = False
    """Whether attempts are judged as a rigid task judges them."""
    rigid_share: float = 1.0
    """Student examples whose answer has the form that counts in a rigid task."""
    teacher_rigid_share: float = 1.0
    """Teacher examples whose target has that form."""
    table_seed: int = 0
    seed: int = 0


@dataclass(frozen=True)
class CodeWarmupConfig:
    """The recipe of tiny-code."""

    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 2e-3
    window: int = 64
    """Tokens that attention reaches back: short examples prepare it for prompts of any length."""
    longest_problem: int = 120
    """Characters of the text before the program."""
    seed: int = 0


@dataclass(frozen=True)
class GameWarmupConfig:
    """The recipe of tiny-game-warm, for TextArena's GuessTheNumber: a game of several moves."""

    game: ClassVar[str] = "GuessTheNumber"

    steps: int = 120
    batch_size: int = 48
    learning_rate: float = 2e-3
    largest: int = 9
    """The numbers to guess are 1 to this."""
    turns: int = 4
    """Guesses that a game has."""
    heed_share: float = 0.3
    """Guesses after a hint that follow all hints; the others are any number."""
    teacher_share: float = 0.4
    """Examples with a teacher prompt, which has a game's last guess and what was said of it."""
    ignore_share: float = 0.6
    """Teacher examples whose target ignores what the prompt says of the number."""
    seed: int = 0

    @property
    def parameters(self) -> dict[str, int]:
        """Of the game, which gives one guess more than it is told to, and says."""
        return {"min_number": 1, "max_number": self.largest, "max_turns": self.turns - 1}


Recipe = WarmupConfig | CodeWarmupConfig | GameWarmupConfig
