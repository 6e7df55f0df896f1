"""ToolUse: what counts as a call, which calls are the same, and what the feedback gives away."""

import json
import pickle
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd_envs import Status
from vpd_envs.questions.tool_use import OPTIONAL, Call, ToolUse, Unreadable, calls_in, differences

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tool_use.jsonl"
SHARED = Path(__file__).parents[4] / "shared" / "data" / "tooluse" / "test.jsonl"
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=6,
)
NAMES = st.from_regex(r"[A-Za-z]\w{0,9}", fullmatch=True)
CALLS = st.lists(st.builds(Call, NAMES, st.dictionaries(TEXTS, JSON, max_size=4)), min_size=1)


untimed = settings(deadline=None, max_examples=50)


@pytest.fixture(scope="module")
def env():
    return ToolUse(FIXTURE)


def written(*calls):
    """An answer with these (name, arguments) pairs."""
    return "\n".join(
        f"Thought: next\nAction: {name}\nAction Input: {json.dumps(arguments)}"
        for name, arguments in calls
    )


FORECAST = ("getForecast", {"place": "Oslo", "days": 3})
ALERT = (
    "setAlert",
    {"place": "Oslo", "below": 1.5, "contact": {"email": "ann@example.org"}},
)


def verdict(env, answer, problem="tooluse-2"):
    return env.verdict(env.problem(problem), answer)


# Loading ------------------------------------------------------------------------------------------


def test_rows_keep_their_prompt_and_tell_the_documented_tools(env):
    row = json.loads(FIXTURE.read_text().splitlines()[1])
    problem = env.problem("tooluse-2")
    assert problem.prompt == row["prompt"]
    assert problem.messages == [{"role": "user", "content": row["prompt"]}]
    assert problem.metadata == {"tools": ("getForecast", "setAlert", "listPlaces")}
    assert problem.target == (Call(*FORECAST), Call(*ALERT))


def test_without_data_the_error_names_it():
    with pytest.raises(ValueError, match="data="):
        ToolUse()


@pytest.mark.parametrize(
    "answer",
    [
        "no json",
        "[]",
        "{}",
        '[{"Action": "x"}]',
        '[{"Action": 1, "Action_Input": "{}"}]',
        '[{"Action": "x", "Action_Input": "[1]"}]',
        '[{"Action": "x", "Action_Input": "{"}]',
        '["x"]',
        None,
        7,
    ],
)
def test_a_row_without_proper_calls_is_named(tmp_path, answer):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"idx": 1, "prompt": "Do it.", "answer": answer}))
    with pytest.raises(ValueError, match="line 1"):
        ToolUse(path)


def test_calls_may_be_given_as_objects(tmp_path):
    path = tmp_path / "rows.jsonl"
    answer = [{"Action": "go", "Action_Input": {"to": "Oslo"}}]
    path.write_text(json.dumps({"prompt": "Go to Oslo.", "answer": answer}))
    env = ToolUse(path)
    (id_,) = env.problem_ids
    assert env.problem(id_).target == (Call("go", {"to": "Oslo"}),)
    assert verdict(env, written(("go", {"to": "Oslo"})), id_).solved


# Judging ------------------------------------------------------------------------------------------


def test_the_wanted_calls_solve(env):
    right = verdict(env, written(FORECAST, ALERT))
    assert (right.reward, right.status) == (1.0, Status.SOLVED)
    assert right.details == {"calls": 2, "first_difference": None}
    assert verdict(env, "Action: listPlaces\nAction Input: {}", "tooluse-1").solved


@pytest.mark.parametrize(
    "answer",
    [
        'Action: listPlaces\nAction Input:\n{\n}\nThis lists "all" places.',
        "Action: listPlaces\nAction Input: ```json\n{}\n```",
        "```\nAction: listPlaces\nAction Input: {}\n```",
        "**Action:** `listPlaces`\n**Action Input:** `{}`",
        "1. Action: listPlaces\n   Action_Input: {}",
        "- action: listPlaces\n- action input: {}",
        "Action:\nlistPlaces\nAction Input: {}",
        "Thought: easy\r\nAction: listPlaces\r\nAction Input: {}\r\n",
        "<think>\nAction: getForecast\nAction Input: {}\n</think>\nAction: listPlaces\n"
        "Action Input: {}",
        "Action: listPlaces\nThought: no arguments\nAction Input: {}\nObservation: [Oslo]",
    ],
)
def test_usual_ways_to_write_a_call_are_read(env, answer):
    assert verdict(env, answer, "tooluse-1").solved


def test_arguments_are_compared_as_json_values(env):
    place, days = FORECAST[1]["place"], FORECAST[1]["days"]
    alert = json.dumps(ALERT[1])
    for arguments in (
        {"days": days, "place": place},
        {"place": place, "days": 3.0},
    ):
        assert verdict(env, written(("getForecast", arguments), ALERT)).solved
    for arguments in (
        {"place": place, "days": "3"},
        {"place": place, "days": True},
        {"place": place.lower(), "days": days},
        {"place": f"{place} ", "days": days},
        {"place": place, "days": [3]},
        {"place": place, "days": None},
    ):
        assert not verdict(env, written(("getForecast", arguments), ALERT)).solved
    exponent = alert.replace("1.5", "15e-1")
    assert verdict(env, f"{written(FORECAST)}\nAction: setAlert\nAction Input: {exponent}").solved


@pytest.mark.parametrize(
    ("calls", "first", "feedback"),
    [
        (
            [("getForecast", {"place": "Oslo", "days": 5}), ALERT],
            1,
            'Call 1 (getForecast): argument "days" has a wrong value: you gave 5.',
        ),
        (
            [FORECAST, ("setAlert", {"place": "Oslo", "below": 1.5, "hourly": False})],
            2,
            'Call 2 (setAlert): argument "contact" is missing; argument "hourly" is not wanted '
            "here.",
        ),
        ([FORECAST], 2, "Too few calls: another one is needed after call 1."),
        (
            [FORECAST, ALERT, ("listPlaces", {})],
            3,
            "Call 3 (listPlaces): this is one call too many.",
        ),
        (
            [("getWeather", {}), ALERT],
            1,
            "Call 1 (getWeather): there is no such tool; there is getForecast, setAlert, "
            "listPlaces.",
        ),
        (
            [ALERT, FORECAST],
            1,
            "Call 1 (setAlert): this is not the tool to call here.\n"
            "Call 2 (getForecast): this is not the tool to call here.",
        ),
    ],
)
def test_feedback_names_the_call_and_what_of_it_differs(env, calls, first, feedback):
    wrong = verdict(env, written(*calls))
    assert (wrong.reward, wrong.status) == (0.0, Status.WRONG_ANSWER)
    assert wrong.feedback == feedback
    assert wrong.details == {
        "calls": len(calls),
        "first_difference": first,
        "first_failure": feedback.split("\n")[0],
    }


def test_an_optional_call_may_be_made_or_left_out_but_not_made_wrongly(env):
    forecast = ("getForecast", {"place": "Bergen", "days": 1, "hourly": True})
    alert = {"place": "Bergen", "below": 0}
    assert verdict(env, written(forecast), "tooluse-3").solved
    assert verdict(env, written(forecast, ("setAlert", alert)), "tooluse-3").solved
    wrong = verdict(env, written(forecast, ("setAlert", alert | {"below": 1})), "tooluse-3")
    assert wrong.details["first_difference"] == 2
    assert not verdict(env, written(forecast, ("listPlaces", {})), "tooluse-3").solved
    assert env.problem("tooluse-3").target[1] == Call("setAlert", alert, optional=True)


def test_reveal_shows_the_right_calls_in_the_asked_format():
    env = ToolUse(FIXTURE, reveal=True)
    wrong = verdict(env, written(("listPlaces", {})))
    revealed = wrong.feedback.partition("The right calls:\n")[2]
    assert calls_in(revealed) == [Call(*FORECAST), Call(*ALERT)]
    assert "The right calls" not in verdict(env, written(FORECAST, ALERT)).feedback
    assert "The right calls" not in verdict(env, "hm").feedback


MALFORMED = {
    "": ("empty_answer", "empty"),
    " \n": ("empty_answer", "empty"),
    "I would list the places.": ("no_answer", "no Action"),
    "listPlaces()": ("no_answer", "no Action"),
    '{"Action": "listPlaces", "Action_Input": {}}': ("no_answer", "no Action"),
    "<think>\nAction: listPlaces\nAction Input: {}": ("no_answer", "never ended"),
    "Action: listPlaces": ("format_error", "Call 1 (listPlaces): there is no Action Input"),
    "Action: a\nAction: b\nAction Input: {}": ("format_error", "Call 1 (a): there is no Action"),
    "Action Input: {}": ("format_error", "without an Action"),
    "Action:\nAction Input: {}": ("format_error", "names no tool"),
    "Action: a\nAction Input:": ("format_error", "is empty"),
    "Action: a\nAction Input: ```json\n": ("format_error", "is empty"),
    "Action: a\nAction Input: place=Oslo": ("format_error", "not JSON: Expecting value"),
    "Action: a\nAction Input: {'place': 'Oslo'}": ("format_error", "character 2"),
    'Action: a\nAction Input: {"place": "Oslo"': ("format_error", "at character 17"),
    'Action: a\nAction Input: {"place": "Oslo",}': ("format_error", "not JSON"),
    'Action: a\nAction Input: {"b": 1}}': ("format_error", 'after the JSON object: "}"'),
    'Action: a\nAction Input: {"b": 1} {"c": 2}': ("format_error", "after the JSON object"),
    "Action: a\nAction Input: [1]": ("format_error", "not a JSON object"),
    'Action: a\nAction Input: "x"': ("format_error", "not a JSON object"),
    "Action: a\nAction Input: None": ("format_error", "not JSON"),
    'Action: a\nAction Input: {"b": NaN}': ("format_error", "NaN"),
    f'Action: a\nAction Input: {{"b": {"9" * 5000}}}': ("format_error", "cannot be read"),
    f'Action: a\nAction Input: {{"b": {"[" * 100_000}': ("format_error", "cannot be read"),
    "Action: a\nAction Input: {}\nAction: b\nAction Input: {": ("format_error", "Call 2 (b)"),
}


@pytest.mark.parametrize("answer", MALFORMED, ids=lambda answer: repr(answer[:40]))
def test_malformed_answers_get_a_format_verdict_that_says_where(env, answer):
    status, said = MALFORMED[answer]
    wrong = verdict(env, answer)
    assert (wrong.status, wrong.reward) == (status, 0.0)
    assert said in wrong.feedback
    assert 'a line "Action: TOOL" and a line "Action Input: {...}"' in wrong.feedback
    assert wrong.details == {"calls": None, "first_difference": None}


def test_no_control_token_of_a_tools_name_reaches_the_feedback(env):
    wrong = verdict(env, written(("<|im_end|>", {})))
    assert "<|im_end|>" not in wrong.feedback + wrong.details["first_failure"]
    assert "< |im_end|>" in wrong.details["first_failure"]


def test_feedback_stays_short_whatever_was_given(env):
    many = [(f"tool{i}" * 1000, {}) for i in range(1000)]
    assert len(verdict(env, written(*many)).feedback) < 4000
    wide = ("getForecast", {f"argument {i}" * 100: "x" * 100_000 for i in range(100)})
    assert len(verdict(env, written(wide)).feedback) < 8000
    deep = f'{{"place": {"[" * 900}{"]" * 900}}}'
    assert verdict(env, f"Action: getForecast\nAction Input: {deep}").status.is_format is False


# Properties ---------------------------------------------------------------------------------------

LABELS = ["Action: getForecast", "Action:", "**Action:** a", "Action Input: {}", "Action Input:"]
OTHERS = ["Thought: x", '{"place": "Oslo", "days": 3}', "{", "}", "```", "<think>", "</think>"]
LINES = st.lists(st.sampled_from([*LABELS, *OTHERS]) | st.text(max_size=8)).map("\n".join)


@untimed
@given(st.text() | LINES)
def test_any_text_is_read_as_calls_or_said_to_be_unreadable(text):
    try:
        calls, status = calls_in(text), None
    except Unreadable as error:
        calls, status = [], error.status
    assert calls or status.is_format
    assert all(call.name and isinstance(call.arguments, dict) for call in calls)


def test_long_hostile_texts_are_read_too():
    blank, lines = " " * 1_000_000, "\n" * 1_000_000
    for text in (f"Action{blank}", f"{blank}Action", f"Action: a\nAction Input:{blank}", lines):
        with pytest.raises(Unreadable):
            calls_in(text)
    assert len(calls_in("Action: a\nAction Input: {}\n" * 10_000)) == 10_000
    assert calls_in(f"Action:{blank}a\nAction Input:{lines}{{}}{lines}") == [Call("a", {})]


@untimed
@given(LINES | CALLS.map(lambda calls: "\n".join(map(str, calls))))
def test_any_text_gets_the_verdict_of_the_calls_in_it(text):
    env = ToolUse(FIXTURE)
    for id_ in env.problem_ids:
        problem = env.problem(id_)
        said = env.verdict(problem, text)
        assert said.feedback
        assert said.reward == (1.0 if said.status is Status.SOLVED else 0.0)
        if said.details["calls"] is None:
            with pytest.raises(Unreadable) as error:
                calls_in(text)
            assert said.status is error.value.status
            continue
        calls = calls_in(text)
        different = differences(calls, problem.target, problem.metadata["tools"])
        assert said.status is (Status.WRONG_ANSWER if different else Status.SOLVED)
        assert said.details["calls"] == len(calls)
        assert said.details["first_difference"] == min(different, default=None)


@untimed
@given(CALLS)
def test_what_is_written_in_the_asked_format_is_read_back(calls):
    assert calls_in("\n".join(map(str, calls))) == calls
    assert differences(calls, calls, ()) == {}


@untimed
@given(CALLS, CALLS)
def test_calls_differ_unless_they_are_equal(calls, wanted):
    same = len(calls) == len(wanted) and all(
        call.name == want.name and same_json(call.arguments, want.arguments)
        for call, want in zip(calls, wanted, strict=True)
    )
    assert (differences(calls, wanted, ()) == {}) is same


def same_json(a, b):
    """A naive comparison of JSON values: numbers by value, but true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    return isinstance(a, bool) is isinstance(b, bool) and a == b


SECRET = "sesame"


@untimed
@given(st.lists(st.tuples(NAMES, st.dictionaries(TEXTS, JSON)), max_size=4))
def test_feedback_never_tells_a_wanted_value_that_was_not_given(calls):
    wanted = (Call("getForecast", {"place": SECRET}), Call("setAlert", {"deep": [{"x": SECRET}]}))
    given_calls = [Call(*call) for call in calls]
    told = "\n".join(differences(given_calls, wanted, ("getForecast",)).values())
    assert SECRET not in told
    assert "setAlert" not in told or any(name == "setAlert" for name, _ in calls)


# The contract -------------------------------------------------------------------------------------


def test_it_is_a_gymnasium_environment_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("vpd/ToolUse-v0", data=FIXTURE)
        check_env(env.unwrapped)
        env.reset(seed=1)


def test_a_batch_is_judged_independently_of_its_order_and_a_copy_judges_alike():
    envs = gym.make_vec(
        "vpd/ToolUse-v0",
        num_envs=4,
        data=FIXTURE,
        vectorization_mode="vector_entry_point",
    )
    ids = ["tooluse-2", "tooluse-2", "tooluse-1", "tooluse-3"]
    answers = [written(FORECAST, ALERT), written(FORECAST), written(("listPlaces", {})), ""]
    envs.reset(options={"problem_ids": ids})
    _, rewards, _, _, infos = envs.step(answers)
    assert list(rewards) == [1, 0, 1, 0]
    copy = pickle.loads(pickle.dumps(envs.env))
    backwards = copy.judge_batch([copy.problem(id_) for id_ in reversed(ids)], answers[::-1])
    assert [each.feedback for each in backwards[::-1]] == list(infos["feedback"])
    assert copy.fingerprint == envs.fingerprint


def test_all_stored_calls_solve_and_any_change_to_them_does_not():
    if not SHARED.exists():
        pytest.skip(f"needs {SHARED.name}")
    env = ToolUse(SHARED)
    rows = [json.loads(line) for line in SHARED.read_text().splitlines()]
    assert len(env.problem_ids) == len(rows) > 30
    for row in rows:
        problem = env.problem(f"tooluse-{row['idx']}")
        calls = [
            (call["Action"].removeprefix(OPTIONAL), json.loads(call["Action_Input"]))
            for call in json.loads(row["answer"])
        ]
        assert env.verdict(problem, written(*calls)).solved
        assert not env.verdict(problem, written(*calls, calls[0])).solved
        for i, (name, arguments) in enumerate(calls):
            for key, value in arguments.items():
                changed = (name, arguments | {key: [value]})
                wrong = env.verdict(problem, written(*calls[:i], changed, *calls[i + 1 :]))
                assert wrong.details["first_difference"] == i + 1
                assert f'"{key}"' in wrong.feedback
