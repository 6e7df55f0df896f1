"""The contract of every environment of the suite, single and batched."""

import pickle
import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from lcb_rows import block
from sandboxes import BrokenSandbox
from suite import CASES, each_env, each_sandboxed_env

from sandbox import SandboxError, shared
from vpd_envs import Problem, Status, TextEnv, TextVectorEnv, Verdict


def make(case, **more):
    return gym.make(case.id, **case.options | more)


def make_vec(case, num_envs, **more):
    options = case.options | more
    return gym.make_vec(
        case.id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options
    )


def test_the_suite_has_every_registered_environment():
    assert {case.id for case in CASES} == {id_ for id_ in gym.registry if id_.startswith("vpd/")}


@each_env
def test_gymnasiums_checker_passes_without_a_warning(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(case)
        check_env(env.unwrapped)
        env.reset(seed=1)  # once more through the wrappers of gym.make, which also warn
        env.step("nonsense")
        env.close()


@each_env
def test_the_same_seed_asks_the_same_problems(case):
    def asked(seed):
        env = make(case)
        first = env.reset(seed=seed)[1]["problem_id"]
        return [first] + [env.reset()[1]["problem_id"] for _ in range(9)]

    assert asked(3) == asked(3) != asked(4)


@each_env
def test_the_same_seed_asks_the_same_batch(case):
    envs = make_vec(case, 10)
    first = envs.reset(seed=5)
    second = envs.reset(seed=5)
    assert first[0] == second[0]
    assert list(first[1]["problem_id"]) != list(envs.reset(seed=6)[1]["problem_id"])


@each_env
def test_reset_tells_the_problem_but_not_its_target(case):
    env = make(case)
    problem_id = env.unwrapped.problem_ids[-1]
    prompt, info = env.reset(options={"problem_id": problem_id})
    problem = env.unwrapped.problem(problem_id)
    assert prompt == problem.prompt
    assert info["problem_id"] == problem_id
    assert info["messages"] == problem.messages
    assert info["messages"][-1] == {"role": "user", "content": prompt}
    assert [m["role"] for m in info["messages"]] == ["system", "user"][not problem.system :]
    assert set(info) == {"problem_id", "messages", "metadata"}
    assert "target" not in repr(problem)


@each_env
def test_a_batch_gives_the_verdicts_of_single_steps_in_any_order(case):
    env = make(case)
    answers = ["", *case.answers]
    all_ids = env.unwrapped.problem_ids
    ids = [all_ids[i % min(3, len(all_ids))] for i in range(len(answers))]
    single = []
    for problem_id, answer in zip(ids, answers, strict=True):
        env.reset(options={"problem_id": problem_id})
        single.append(env.step(answer))
    envs = make_vec(case, len(answers))
    for order in (range(len(answers)), reversed(range(len(answers)))):
        order = list(order)
        _, infos = envs.reset(options={"problem_ids": [ids[i] for i in order]})
        assert list(infos["problem_id"]) == [ids[i] for i in order]
        observations, rewards, terminations, truncations, infos = envs.step(
            [answers[i] for i in order]
        )
        for row, i in enumerate(order):
            observation, reward, terminated, truncated, info = single[i]
            assert observations[row] == observation == info["feedback"]
            assert rewards[row] == reward
            assert (terminations[row], truncations[row]) == (terminated, truncated)
            for key, value in info.items():
                assert infos[f"_{key}"][row]
                assert data_equivalence(infos[key][row], value, exact=True) or (
                    infos[key].dtype == bool and infos[key][row] == value
                )
        assert infos["judged"].all()


@each_env
def test_gymnasiums_own_vector_env_agrees(case):
    envs = gym.make_vec(case.id, num_envs=2, vectorization_mode="sync", **case.options)
    observations, infos = envs.reset(seed=0)
    assert observations in envs.observation_space
    _, rewards, terminations, _, infos = envs.step(("y", "z"))
    assert rewards.tolist() == [0, 0]
    assert terminations.all()
    assert all(infos["feedback"])


@each_env
def test_batched_env_follows_the_vector_convention(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = make_vec(case, 3)
    assert isinstance(envs, TextVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observations, infos = envs.reset(seed=0)
    assert observations in envs.observation_space
    assert ("a", "b", "c") in envs.action_space
    assert infos["problem_id"].dtype == object
    assert infos["_problem_id"].all()
    observations, rewards, *_, infos = envs.step(("a", "b", "c"))
    assert observations in envs.observation_space
    assert rewards.dtype == np.float64
    assert infos["solved"].dtype == bool
    assert envs.problem_ids == envs.env.problem_ids
    assert envs.fingerprint == envs.env.fingerprint


@each_env
def test_an_episode_is_one_answer_long(case):
    env = make(case).unwrapped
    envs = make_vec(case, 2)
    for each, answer in ((env, "a"), (envs, ["a", "b"])):
        with pytest.raises(gym.error.ResetNeeded, match="call reset"):
            each.step(answer)
        each.reset(seed=0)
        each.step(answer)
        with pytest.raises(gym.error.ResetNeeded, match="call reset"):
            each.step(answer)


@each_env
def test_mistakes_of_the_caller_are_explained(case):
    env, envs = make(case).unwrapped, make_vec(case, 2)
    known = env.problem_ids[0]
    pattern = re.escape(known)
    with pytest.raises(ValueError, match=f"id '{pattern}x'.*Close matches: .*{pattern}"):
        env.reset(options={"problem_id": known + "x"})
    with pytest.raises(ValueError, match="No problem has the id 17"):
        env.reset(options={"problem_id": 17})
    with pytest.raises(ValueError, match=r"Unknown reset option 'problem'.*'problem_id'"):
        env.reset(options={"problem": known})
    with pytest.raises(ValueError, match="must be 2 ids, got 1 ids"):
        envs.reset(options={"problem_ids": [known]})
    with pytest.raises(ValueError, match="must be 2 ids, got the text"):
        envs.reset(options={"problem_ids": "ab"})
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(TypeError, match=r"the answer must be text.*got int: 3"):
        env.step(3)
    with pytest.raises(TypeError, match=r"answer 1 must be text.*got NoneType"):
        envs.step(["a", None])
    with pytest.raises(ValueError, match="2 answers, got 3"):
        envs.step(["a", "b", "c"])
    with pytest.raises(ValueError, match="2 answers, got one text"):
        envs.step("ab")
    with pytest.raises(ValueError, match="num_envs must be a positive integer"):
        make_vec(case, 0)
    if case.sandboxed:
        with pytest.raises(ValueError, match=r"Unknown sandbox 'jail'.*auto, .*local"):
            make(case, sandbox="jail")
    with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
        make(case, color="red")


@each_sandboxed_env
def test_a_broken_cage_raises_and_the_episode_stays_open(case):
    env = make(case, sandbox=BrokenSandbox(shared("local"), "TRIGGER")).unwrapped
    env.reset(seed=0)
    with pytest.raises(SandboxError, match="The cage is on fire"):
        env.step(block("'TRIGGER'"))
    assert env.step("y")[4]["solved"] is False


@each_sandboxed_env
def test_a_sandbox_failure_in_a_batch_is_nan_and_never_zero(case):
    broken = BrokenSandbox(shared("local"), "TRIGGER")
    envs = make_vec(case, 3, sandbox=broken)
    envs.reset(seed=0)
    answers = ["y", block("'TRIGGER'"), block("1/0")]
    observations, rewards, terminations, truncations, infos = envs.step(answers)
    assert np.isnan(rewards).tolist() == [False, True, False]
    assert infos["judged"].tolist() == [True, False, True]
    assert terminations.tolist() == [True, False, True]
    assert truncations.tolist() == [False, True, False]
    assert "The cage is on fire" in infos["error"][1]
    assert infos["_error"].tolist() == [False, True, False]
    assert infos["feedback"][1] is None
    assert infos["_feedback"].tolist() == [True, False, True]
    assert observations[1] == ""
    assert infos["problem_id"][1] in envs.problem_ids


@each_sandboxed_env
def test_a_batch_that_fails_as_a_whole_raises(case):
    broken = BrokenSandbox(shared("local"), "TRIGGER")
    envs = make_vec(case, 2, sandbox=broken)
    envs.reset(seed=0)
    with pytest.raises(SandboxError, match=r"None of 2 answers could be judged.*on fire"):
        envs.step([block("'TRIGGER'")] * 2)
    assert envs.step(["y", "z"])[1].tolist() == [0.0, 0.0]  # the batch was still open


@each_env
def test_envs_are_picklable(case):
    env = make(case)
    env.reset(seed=0)
    env.step("y")
    copy = pickle.loads(pickle.dumps(env))
    assert copy.unwrapped.fingerprint == env.unwrapped.fingerprint
    assert copy.reset()[0] == env.reset()[0]  # the random state travels too
    assert copy.step("y")[4] == env.step("y")[4]
    envs = make_vec(case, 2)
    assert pickle.loads(pickle.dumps(envs)).reset(seed=1)[0] == envs.reset(seed=1)[0]


@each_env
def test_render_shows_prompt_answer_and_verdict(case):
    env = make(case, render_mode="ansi")
    prompt, _ = env.reset(seed=0)
    assert prompt in env.render()
    feedback = env.step("my answer")[0]
    shown = env.render()
    assert shown.index(prompt) < shown.index("my answer") < shown.rindex(feedback)
    with pytest.raises(ValueError, match="render_mode must be"):
        type(env.unwrapped)(**case.options, render_mode="human")


def test_a_new_environment_takes_one_method():
    class Reversal(TextEnv):
        def __init__(self, **kwargs):
            words = ["stressed", "parts"]
            super().__init__([Problem(word, word, word[::-1]) for word in words], **kwargs)

        def judge(self, problem, answer):
            right = answer == problem.target
            status = Status.SOLVED if right else Status.WRONG_ANSWER
            return Verdict(float(right), status, "Right." if right else "Not reversed.")

    gym.register("tests/Reversal-v0", Reversal, vector_entry_point=Reversal.vector)
    try:
        check_env(gym.make("tests/Reversal-v0").unwrapped)
        envs = gym.make_vec("tests/Reversal-v0", num_envs=2)
        envs.reset(options={"problem_ids": ["parts", "parts"]})
        assert envs.step(["strap", "parts"])[1].tolist() == [1.0, 0.0]
    finally:
        del gym.registry["tests/Reversal-v0"]


def test_what_a_caller_does_to_an_info_changes_no_problem():
    class Plain(TextEnv):
        def judge(self, problem, answer):
            return Verdict(0.0, Status.WRONG_ANSWER, "No.", {"marks": shared})

    shared = [1]
    env = Plain([Problem("1", "p", "t", {"options": ["a"]})])
    env.reset()[1]["metadata"]["options"].append("b")
    env.step("x")[4]["details"]["marks"].append(2)
    assert env.reset()[1]["metadata"] == {"options": ["a"]}
    assert shared == [1]


def test_the_fingerprint_covers_prompts_ids_and_targets():
    class Plain(TextEnv):
        pass

    def fingerprint(*problems):
        return Plain([Problem(*problem) for problem in problems]).fingerprint

    base = fingerprint(("1", "p", "t"))
    assert base == fingerprint(("1", "p", "t"))
    for other in (("2", "p", "t"), ("1", "q", "t"), ("1", "p", "u"), ("1p", "", "t")):
        assert fingerprint(other) != base
    with pytest.raises(ValueError, match="'1' came more than once"):
        fingerprint(("1", "p", "t"), ("1", "q", "t"))
    with pytest.raises(ValueError, match="no problem to ask"):
        fingerprint()


def test_import_is_quick_and_takes_neither_torch_nor_docker():
    program = (
        "import sys, time, gymnasium; started = time.process_time(); import vpd_envs;"
        "assert time.process_time() - started < 1, 'slow';"
        "import gymnasium as gym; gym.make('vpd/MiniCode-v0').reset(seed=0);"
        "heavy = {'torch', 'vllm', 'docker', 'transformers', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
