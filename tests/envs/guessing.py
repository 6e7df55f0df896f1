"""A small environment for the tests of feedback: numbers to guess, in several turns."""

from sandbox import SandboxError
from vpd_envs import Problem, Status, TextEnv, Verdict
from vpd_envs.feedback import Attempt

TARGETS = {"low": 1, "mid": 5, "high": 9}


class Guess(TextEnv):
    """Answers are numbers; `fire` breaks the infrastructure. Feedback has two lines on purpose:
    `first_failure` is the first of them."""

    def __init__(self, **kwargs):
        problems = [Problem(id_, f"Guess {id_}", target) for id_, target in TARGETS.items()]
        super().__init__(problems, **{"max_turns": 2, **kwargs})

    def judge(self, problem, answer):
        if answer == "fire":
            raise SandboxError("The judge is on fire. Expected a judge; fetch water.")
        answer = answer.rpartition("</think>")[2].strip()
        if not answer.isdecimal():
            return Verdict(0.0, Status.NO_ANSWER, "Not a number.")
        if int(answer) == problem.target:
            return Verdict(1.0, Status.SOLVED, "Right.")
        first = f"{answer} is too {'low' if int(answer) < problem.target else 'high'}."
        details = {"first_failure": first}
        return Verdict(0.0, Status.WRONG_ANSWER, f"{first}\nTry another.", details)


def guesses(pairs, wrap=lambda envs: envs, **kwargs):
    """The wrapped batched environment that has asked the problems of the (problem, answer) pairs,
    and what it says of the answers."""
    envs = wrap(Guess.vector(len(pairs), **kwargs))
    envs.reset(options={"problem_ids": [problem for problem, _ in pairs]})
    return envs, envs.step([answer for _, answer in pairs])


def said(pairs, wrap=lambda envs: envs, **kwargs):
    """The feedback of a batch."""
    return list(guesses(pairs, wrap, **kwargs)[1][-1]["feedback"])


def attempt(answer="3", feedback="3 is too low.\nTry another.", problem_id="mid", **more):
    """As the judge of `Guess` would make it, unless said otherwise."""
    solved = more.pop("solved", False)
    status = Status.SOLVED if solved else Status.WRONG_ANSWER
    defaults = {
        "problem_id": problem_id,
        "prompt": f"Guess {problem_id}",
        "answer": answer,
        "reward": float(solved),
        "solved": solved,
        "status": status.value,
        "feedback": feedback,
        "comment": feedback,
        "details": {},
    }
    return Attempt(**(defaults | more))
