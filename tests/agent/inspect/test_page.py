"""The page as a file: what is in it, and that what was written by a model stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from agent.inspect.made_up import ATTACK, change, make_run
from vpd_agent.cli.main import main
from vpd_agent.inspect.page import as_json, contents, curves, divergence_in_words, page


class Elements(HTMLParser):
    """The elements of a page, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data


def test_what_a_model_wrote_is_in_the_page_as_data_and_comes_back_unchanged(tmp_path):
    run = make_run(tmp_path / "run")
    change(run, feedback=ATTACK, tokens=["<", "/script", ">", ATTACK, "x", "y", "z"])
    plain = Elements(page(contents(make_run(tmp_path / "harmless"))))
    attacked = Elements(page(contents(run)))
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in plain.elements]
    data = json.loads(attacked.scripts[0])
    first = data["steps"][0]["groups"][0]["rollouts"][0]
    assert first["feedback"] == ATTACK
    assert "".join(first["tokens"]) == f"</script>{ATTACK}xyz"


def test_names_are_escaped(tmp_path):
    run = make_run(tmp_path / "<b>run<b>", name="<i>")
    found = [tag for tag, _ in Elements(page(contents(run))).elements]
    assert not {"b", "i"} & set(found)


@pytest.mark.parametrize("text", ["</script>", "<!--", "<script", "&amp;", "\u2028\u2029"])
def test_nothing_in_json_can_end_a_script(text):
    written = as_json({"x": [text]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"x": [text]}


def test_the_page_may_load_nothing_and_run_its_own_script_only(tmp_path):
    elements = Elements(page(contents(make_run(tmp_path / "run")))).elements
    (policy,) = [a["content"] for t, a in elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not [a for _, a in elements if "src" in a or "href" in a]


def test_curves_leave_out_what_is_no_number_and_stay_small():
    metrics = [
        {"step": s, "reward": s / 10, "e_step/grad_norm": 1.0, "m_step/grad_norm": 2.0}
        for s in range(1000)
    ]
    for row in metrics[1:]:
        if row["step"] % 5:
            del row["e_step/grad_norm"]
    metrics[7]["reward"] = float("nan")
    reward, norm = curves(metrics)
    assert (reward["name"], norm["name"]) == ("reward", "gradient norm")
    assert len(reward["points"]) <= 300
    assert all(value == step / 10 for step, value in reward["points"])
    assert {value for _, value in norm["points"]} == {2.0}  # of the loss that each step has


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"alpha": 1.0, "top_k": None}, "KL(student ‖ teacher)"),
        ({"alpha": 0.0, "top_k": 20}, "KL(teacher ‖ student) on the student's 20 likeliest tokens"),
        (
            {"alpha": 0.0, "top_k": 5, "support": "teacher"},
            "KL(teacher ‖ student) on the teacher's 5 likeliest tokens",
        ),
        ({"alpha": 0.5, "top_k": None}, "Jensen–Shannon divergence, α = 0.5,"),
        ({}, ""),
    ],
)
def test_the_divergence_is_named(algorithm, words):
    assert divergence_in_words(algorithm) == words


def test_the_command_writes_the_page_and_says_how_large_it_is(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert main(["inspect", str(run)]) == 0
    written = (run / "inspect.html").read_bytes()
    said = capsys.readouterr().err
    assert f"40 rollouts of 10 steps, {len(written) / 1e6:.1f} MB" in said
    assert main(["inspect", str(run), "--out", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_bytes() == written


def test_bad_input_is_one_clear_line_and_nothing_is_written(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    nothing_kept = make_run(tmp_path / "nothing", steps=0)
    for arguments, words in [
        ([str(tmp_path / "absent")], "Expected the folder of a run"),
        ([str(tmp_path / "empty")], "Expected the folder of a run"),
        ([str(nothing_kept)], "--inspect-every"),
        ([str(run), "--out", str(tmp_path / "page.txt")], "NAME.html"),
        ([str(run), "--out", str(tmp_path / "absent" / "page.html")], "NAME.html"),
    ]:
        assert main(["inspect", *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))
    assert not list(tmp_path.rglob("page.txt"))
