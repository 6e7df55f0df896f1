"""Examples for a game of several moves: conversations, each with the move that comes next."""

from __future__ import annotations

import random

from vpd_agent.data.types import Message
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.tiny.config import GameWarmupConfig
from vpd_agent.tiny.examples import Example
from vpd_envs.games.textarena import TextArena

WON = "Congratulations! You guessed the correct number."


class GameExamples:
    """Of TextArena's GuessTheNumber: guesses in its form, of which a share follows the hints.

    A teacher prompt has the last guess of a game that was played to its end and what the game said
    of it, which names the number that was looked for.
    """

    def __init__(self, config: GameWarmupConfig) -> None:
        self.config = config
        self.random = random.Random(config.seed)
        self.numbers = range(1, config.largest + 1)
        env = TextArena(config.game, parameters=config.parameters, size=1)
        self.prompt = env.problem(env.problem_ids[0]).prompt

    def draw(self) -> Example:
        rng, config = self.random, self.config
        number = rng.choice(self.numbers)
        wrong = [n for n in self.numbers if n != number]
        guesses = rng.sample(wrong, rng.randrange(config.turns))
        said = [hint(guess, number) for guess in guesses]
        first = [{"role": "user", "content": self.prompt}]
        share = config.heed_share
        if taught := rng.random() < config.teacher_share:
            last = rng.choice([number, rng.choice(wrong)])
            first = COMPACT.messages(first, form(last), ending(last, number), solved=last == number)
            share = 1 - config.ignore_share
        if rng.random() >= share:
            target = rng.choice(self.numbers)
        elif taught:
            target = number
        else:
            target = rng.choice(left(guesses, number, self.numbers))
        return Example([*first, *turns(guesses, said)], form(target))


def form(number: int) -> str:
    """A guess as the game asks for it."""
    return f"[{number}]"


def hint(guess: int, number: int) -> str:
    """What the game says of a wrong guess."""
    return f"The target number is {'lower' if guess > number else 'higher'}."


def ending(guess: int, number: int) -> str:
    """What the game says of the last guess."""
    if guess == number:
        return WON
    limit = f"The turn limit has been reached. Guess: {guess}, Target: {number}"
    return f"{hint(guess, number)}\n\n{limit}"


def left(guesses: list[int], number: int, numbers: range) -> list[int]:
    """The numbers that the hints on these guesses leave."""
    return [
        n
        for n in numbers
        if n not in guesses and all((guess > n) == (guess > number) for guess in guesses)
    ]


def turns(guesses: list[int], said: list[str]) -> list[Message]:
    """The conversation after its first prompt."""
    pairs = zip(map(form, guesses), said, strict=True)
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("assistant", "user"), pair, strict=True)
    ]
