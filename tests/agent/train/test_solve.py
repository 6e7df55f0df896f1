"""vpd solve: exact budgets, the same initial weights for each problem, nothing lost."""

from __future__ import annotations

import json
import sys
from itertools import count, pairwise

import pytest
import torch

from agent.helpers import SecretLetter, remove_options, small_policy
from sandbox import SandboxError
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.cli.main import main
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.attempts import (
    AttemptFile,
    Bench,
    BestOfK,
    MultiTurn,
    complete_attempts,
)
from vpd_agent.rollout.teacher_prompt import COMPACT, TeacherTemplate
from vpd_agent.tiny.warmup import Example, supervised_loss
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.learner import Learner
from vpd_agent.train.single_problem import TestTimeDistillation

IDS = [f"train-{letter}" for letter in "abcdefgh"]
GROUP = 4
METHODS = ("ttd", "best-of-k", "multi-turn")


class Counting(SecretLetter):
    """Counts the answers that it is given, and fails at those whose numbers are in `broken`."""

    def __init__(self, *, solvable: bool = False, broken=(), error=None) -> None:
        super().__init__()
        self.solvable, self.broken = solvable, set(broken)
        self.error = error or SandboxError("no cage")
        self.given: list[str] = []  # the problem of each answer
        self.judged = 0
        self._number = count()

    def judge_batch(self, problems, answers, on_progress=None):
        self.given += [p.id for p in problems]
        verdicts = []
        for problem, answer in zip(problems, answers, strict=True):
            if next(self._number) not in self.broken:
                verdicts.append(self.judge(problem, answer))
                self.judged += 1
            elif isinstance(self.error, SandboxError):
                verdicts.append(self.error)
            else:
                raise self.error
        return verdicts

    def judge(self, problem, answer):
        return super().judge(problem, answer if self.solvable else "")


def bench_of(environment, policy=None, batch=64, max_response_tokens=2) -> Bench:
    from vpd_envs import TextVectorEnv

    policy = policy or small_policy()
    engine = HFEngine(policy)
    return Bench(
        policy, engine, lambda n: TextVectorEnv(environment, n), max_response_tokens, batch=batch
    )


def method_of(name, bench, budget, *, algorithm=None, turns="last", template=COMPACT):
    if name == "best-of-k":
        return BestOfK(bench, budget)
    if name == "multi-turn":
        return MultiTurn(bench, budget, turns, template, max_prompt_tokens=200)
    given = TrainConfig(
        prompts_per_step=1, group_size=GROUP, max_response_tokens=2, learning_rate=1e-2, steps=4
    )
    environment = bench.environment(GROUP)
    algorithm = algorithm or SDPO(teacher="ema")
    parts = {"template": template, "engine": bench.engine}
    learner = Learner(bench.policy, algorithm, environment, given, **parts)
    return TestTimeDistillation(learner, bench, budget)


def weights_of(policy):
    return {name: w.detach().clone() for name, w in policy.model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch", [3, 64])
def test_an_unsolved_problem_gets_exactly_its_budget(name, batch):
    environment = Counting()
    method = method_of(name, bench_of(environment, batch=batch), budget=10)
    (made,) = method.solve(["train-a"], 0, lambda more: None)
    assert environment.given == ["train-a"] * 10  # of which ttd trains after 4 and after 8
    assert len(made.tokens) == 10
    assert made.solved == ()
    assert made.answer is None


@pytest.mark.parametrize("name", METHODS)
def test_progress_counts_every_attempt(name):
    seen = []
    method_of(name, bench_of(Counting()), budget=10).solve(["train-a"], 0, seen.append)
    assert sum(seen) == 10


def test_only_best_of_k_goes_on_after_a_solved_attempt():
    class Third(Counting):
        def judge(self, problem, answer):
            return SecretLetter.judge(self, problem, "a" if self.judged == 2 else "")

    expected = {"ttd": 4, "best-of-k": 10, "multi-turn": 3}  # ttd: the group that it is in
    for name, answers in expected.items():
        environment = Third()
        (made,) = method_of(name, bench_of(environment), 10).solve(
            ["train-a"], 0, lambda more: None
        )
        assert made.discovered == 3
        assert len(environment.given) == len(made.tokens) == answers


@pytest.mark.parametrize("name", METHODS)
def test_an_attempt_that_cannot_be_judged_is_made_again_and_not_scored(name):
    environment = Counting(broken=(1, 5, 6))
    # Problems side by side in multi-turn, so that something else can be judged meanwhile.
    ids = IDS[:3] if name == "multi-turn" else IDS[:1]
    made = method_of(name, bench_of(environment), 6).solve(ids, 0, lambda more: None)
    assert [len(each.tokens) for each in made] == [6] * len(ids)
    assert environment.judged == 6 * len(ids)
    assert len(environment.given) == 6 * len(ids) + 3


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be_judged_at_all_is_not_in_the_file_and_is_tried_again(name, tmp_path):
    environment = Counting(broken=range(100))
    method = method_of(name, bench_of(environment), 6)
    with AttemptFile(tmp_path / "a.jsonl", {}) as file:
        failures = complete_attempts(file, [method], IDS[:1], [0], 6, lambda *_: None)
        assert file.attempts(IDS, [0]) == []
        assert len(failures) == 1
        environment.broken = ()
        assert complete_attempts(file, [method], IDS[:1], [0], 6, lambda *_: None) == []
        assert [len(a.tokens) for a in file.attempts(IDS, [0])] == [6]


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [SDPO(teacher="ema"), VPD(teacher="ema"), GRPO()])
def test_each_problem_begins_with_the_initial_weights_and_new_optimizers(algorithm):
    bench = bench_of(Counting())
    before = weights_of(bench.policy)
    method = method_of("ttd", bench, 12, algorithm=algorithm)
    first = method.solve(["train-a"], 0, lambda more: None)
    assert same(weights_of(bench.policy), before)
    assert not method.learner.updater.optimizers
    if method.learner.teacher is not None:
        assert same(weights_of(method.learner.teacher.policy), before)
    method.solve(["train-b"], 0, lambda more: None)
    again = method.solve(["train-a"], 0, lambda more: None)
    assert [a.tokens for a in again] == [a.tokens for a in first]


def test_weights_change_between_the_groups_of_a_problem():
    seen = []

    class Watching(Counting):
        def judge_batch(self, problems, answers, on_progress=None):
            seen.append(weights_of(bench.policy))
            return super().judge_batch(problems, answers)

    bench = bench_of(Watching())
    method_of("ttd", bench, 10).solve(["train-a"], 0, lambda more: None)
    assert len(seen) == 3
    assert not same(seen[0], seen[1])
    assert not same(seen[1], seen[2])


def reader() -> object:
    """A model that answers q, r, s or t to a problem, and what the feedback wants if there is one:
    `want z` → z."""
    policy = small_policy()
    prompt = [{"role": "user", "content": "train-z?"}]
    examples = [Example(prompt, letter) for letter in "qrst"]
    for attempt in "qrst":
        turn = COMPACT.messages(prompt, attempt, "want z", solved=False)
        examples.append(Example(turn, "z"))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        supervised_loss(policy, examples).backward()
        optimizer.step()
    return policy


def test_distillation_solves_what_its_own_model_would_hardly_ever_sample():
    environment = SecretLetter(letters="z")
    bench = bench_of(environment, reader())
    (alone,) = method_of("best-of-k", bench, 64).solve(["train-z"], 0, lambda more: None)
    (taught,) = method_of("ttd", bench, 64).solve(["train-z"], 0, lambda more: None)
    assert alone.discovered is None
    assert taught.discovered is not None
    assert taught.answer.startswith("z")


# --- several turns --------------------------------------------------------------------------------


class Recording(HFEngine):
    """Keeps the prompts that it is given."""

    def generate(self, prompts, **options):
        self.prompts = [*getattr(self, "prompts", []), *prompts]
        return super().generate(prompts, **options)


def prompts_of(turns, *, longest, template=COMPACT, budget=5):
    bench = bench_of(Counting())
    bench.engine = engine = Recording(bench.policy)
    MultiTurn(bench, budget, turns, template, longest).solve(["train-a"], 0, lambda more: None)
    return bench.policy, engine.prompts


def test_last_shows_the_last_attempt_as_the_teacher_would_read_it():
    policy, prompts = prompts_of("last", longest=200)
    texts = [policy.tokenizer.decode(p) for p in prompts]
    assert "train-a?|" not in texts[0]
    assert all("train-a?|" in text for text in texts[1:])
    assert all(text.count("want a") == 1 for text in texts[1:])


def test_all_shows_every_feedback_until_the_oldest_has_to_go():
    template = TeacherTemplate()
    policy, prompts = prompts_of("all", longest=4000, template=template)
    told = [policy.tokenizer.decode(p).count("want a") for p in prompts]
    assert told == [0, 1, 2, 3, 4]
    policy, fewer = prompts_of("all", longest=len(prompts[2]), template=template)
    assert [policy.tokenizer.decode(p).count("want a") for p in fewer] == [0, 1, 2, 2, 2]
    assert all(len(p) <= len(prompts[2]) for p in fewer)


def test_chat_goes_on_until_it_is_full_and_then_starts_afresh():
    _, prompts = prompts_of("chat", longest=4000)
    for shorter, longer in pairwise(prompts):
        assert longer[: len(shorter)] == shorter
    _, fewer = prompts_of("chat", longest=len(prompts[2]))
    assert len(fewer[1]) > len(fewer[0])
    assert fewer[3] == fewer[0]
    assert len(fewer) == 5


# --- seeds and interruptions ----------------------------------------------------------------------


def lines(path, environment):
    """What a file holds, but for the seconds, when all methods have worked on three problems."""
    bench = bench_of(environment, batch=2)
    methods = [method_of(name, bench, 5) for name in METHODS]
    with AttemptFile(path, {"what": "this"}) as file:
        complete_attempts(file, methods, IDS[:3], (0, 1), 5, lambda *_: None)
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_an_interrupted_search_goes_on_to_the_same_lines_and_seeds_differ(tmp_path):
    whole = Counting(solvable=True)
    expected = lines(tmp_path / "whole.jsonl", whole)
    by_seed = [[r["tokens"] + r["solved"] for r in expected if r["seed"] == s] for s in (0, 1)]
    assert len(expected) == 3 * 2 * len(METHODS)
    assert by_seed[0] != by_seed[1]
    path = tmp_path / "interrupted.jsonl"
    for stop in (7, len(whole.given) // 2):
        with pytest.raises(KeyboardInterrupt):
            lines(path, Counting(solvable=True, broken=(stop,), error=KeyboardInterrupt()))
    assert 0 < len(path.read_text().splitlines()) < 1 + len(expected)
    assert lines(path, Counting(solvable=True)) == expected


# --- the command ----------------------------------------------------------------------------------


def run(*arguments) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list:
    path = tmp_path_factory.mktemp("model")
    small_policy().save(path)
    return ["solve", "--env", "vpd/MiniChoice-v0", "--model", path, "--limit", 3, "--budget", 6,
            "--group-size", 2, "--max-response-tokens", 2, "--out"]  # fmt: skip


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Without pictures, which take longer to draw than these searches take."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_the_command_writes_every_number_and_draws_them(tmp_path, command, capsys):
    out = tmp_path / "found"
    assert run(*command, out) == 0
    printed = capsys.readouterr().out
    assert "3 problems × 1 seed, 6 attempts each" in printed
    found = json.loads((out / "results.json").read_text())
    assert list(found["methods"]) == list(METHODS)
    for told in found["methods"].values():
        assert len(told["discovery"]["mean"]) == 6
        assert told["discovery@6"]["mean"] == told["discovery"]["mean"][-1]
        assert told["discovery@6"]["count"] == 3
    assert len(found["pairs"]) == 3
    assert (out / "discovery.png").read_bytes().startswith(b"\x89PNG")
    assert "| ttd |" in (out / "report.md").read_text()


@pytest.mark.usefixtures("no_matplotlib")
def test_the_same_command_has_nothing_to_do_and_more_may_be_asked(tmp_path, command):
    out = tmp_path / "found"
    assert run(*command, out) == 0
    before, report = ((out / name).read_bytes() for name in ("results.jsonl", "report.md"))
    assert run(*command, out) == 0
    assert (out / "results.jsonl").read_bytes() == before
    assert (out / "report.md").read_bytes() == report
    assert run(*command, out, "--seeds", 0, 1, "--limit", 4, "--methods", "best-of-k") == 0
    after = (out / "results.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(before.splitlines()) + 4 * 2 - 3


@pytest.mark.usefixtures("no_matplotlib")
def test_another_search_in_the_same_folder_is_refused_by_name(tmp_path, command, capsys):
    out = tmp_path / "found"
    assert run(*command, out, "--methods", "best-of-k") == 0
    before = (out / "results.jsonl").read_bytes()
    for change, expected in [
        (("--budget", 7), "budget is 6 there, 7 here"),
        (("--temperature", 0.5), "temperature is 1.0 there, 0.5 here"),
        (("--alpha", 0), "algorithm.alpha is 0.5 there, 0.0 here"),
        (("--split", "train"), "split is 'test' there, 'train' here"),
    ]:
        assert run(*command, out, *change) == 2
        assert expected in " ".join(capsys.readouterr().err.split())
    assert (out / "results.jsonl").read_bytes() == before


@pytest.mark.usefixtures("no_matplotlib")
def test_options_that_came_after_a_search_had_their_defaults_there(tmp_path, command, capsys):
    out = tmp_path / "found"
    command = [*command, out, "--methods", "best-of-k"]
    assert run(*command) == 0
    path = out / "results.jsonl"
    remove_options(path, "engine", "batch", "algorithm.ema_rate", "template.max_feedback_chars")
    before = path.read_bytes()
    assert run(*command) == 0
    assert path.read_bytes() == before
    assert run(*command, "--batch", 3) == 2
    assert "batch is 64 there, 3 here" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("--budget", 0), "--budget must be at least 1, got 0"),
        (("--budget", 2), "--budget must be larger than that, got 2"),
        (("--problems", "nonsense"), "Unknown problem 'nonsense'"),
        (("--algorithm", "sdp0"), "Did you mean 'sdpo'"),
        (("--gate-width", 0.15), "attempts beyond the budget"),
        (("--seeds", 1, 1), "--seeds has 1 twice"),
        (("--temperature", "nan"), "--temperature must be a finite number, got nan"),
        (("--success-reward", "nan"), "--success-reward must be a finite number, got nan"),
        (("--set", "max_turns=2"), "leave max_turns out"),
        (("--max-prompt-tokens", 1), "All of 3 problems have a prompt of more than 1 tokens"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, command, capsys, change, expected):
    assert run(*command, tmp_path / "out", *change) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
