"""Every line of the tables of notations, and pairs of answers of each kind."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.math.answer import compact, tidy
from vpd_envs.math.characters import CHARACTERS, ROOTS
from vpd_envs.math.commands import IGNORED, RENAMED, SHOWN_IN, STYLES, SWITCHES, TEXTS
from vpd_envs.math.notation import DELIMITERS, PATTERNS, normal_form

PAIRS = Path(__file__).parents[2] / "fixtures" / "math_notations.jsonl"


def same_form(text, other):
    return compact(normal_form(text)) == compact(normal_form(other))


@pytest.mark.parametrize("notation", DELIMITERS + PATTERNS, ids=lambda each: each.example)
def test_a_notation_has_the_normal_form_of_what_it_means(notation):
    assert same_form(notation.example, notation.means)
    assert not same_form(notation.example, "7")


@pytest.mark.parametrize("character", sorted(CHARACTERS))
def test_a_sign_of_unicode_is_its_latex(character):
    latex = CHARACTERS[character]
    assert same_form(f"x{character}y", f"x{latex}y")
    assert normal_form(f"x{character}y").isascii()


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_a_root_of_unicode_takes_the_number_behind_it(root):
    assert same_form(f"{root}12", rf"{ROOTS[root]}{{12}}")
    assert same_form(f"{root}(x+1)", rf"{ROOTS[root]}{{x+1}}")


@pytest.mark.parametrize("command", sorted(STYLES))
def test_a_style_does_not_change_its_argument(command):
    assert normal_form(rf"\{command}{{42}}") == "42"
    assert normal_form(rf"x^\{command}{{2}}") == "x^{2}"


@pytest.mark.parametrize("command", sorted(SWITCHES))
def test_a_switch_is_dropped(command):
    assert same_form(rf"\{command} (1,2)", "(1,2)")


@pytest.mark.parametrize("command", sorted(TEXTS))
def test_words_of_a_text_stay_words_and_its_mathematics_is_bare(command):
    assert normal_form(rf"\{command}{{42}}") == "42"
    assert normal_form(rf"3+4\{command}{{i}}") == "3+4i"
    assert normal_form(rf"\{command}{{east}}") == r"\text{east}"


@pytest.mark.parametrize(("command", "count"), sorted((SHOWN_IN | IGNORED).items()))
def test_a_color_is_not_part_of_the_answer(command, count):
    assert normal_form(rf"\{command}{'{red}' * count} 42") == "42"


@pytest.mark.parametrize("command", sorted(RENAMED))
def test_a_renamed_command_does_not_remain(command):
    assert rf"\{command}" not in normal_form(rf"2\{command} 3").split()


@given(st.lists(st.sampled_from(sorted({*CHARACTERS, *ROOTS, "½", "²", "₁", "\\", "{", "}", "x"}))))
def test_any_row_of_signs_has_a_normal_form(signs):
    normal_form("".join(signs))


def pairs_by_kind():
    by_kind = defaultdict(list)
    for row in map(json.loads, PAIRS.read_text(encoding="utf-8").splitlines()):
        for side in ("equal", "different"):
            for prediction in row[side]:
                by_kind[row["kind"]].append((row["gold"], prediction, side == "equal"))
    return by_kind


PAIRS_BY_KIND = pairs_by_kind()


@pytest.mark.parametrize("kind", sorted(PAIRS_BY_KIND))
def test_what_is_equal_is_equal_and_what_differs_differs(kind):
    pytest.importorskip("math_verify")
    from vpd_envs.math.comparison import compare

    wrong = [
        f"{gold} | {prediction}: expected {'equal' if same else 'different'}"
        for gold, prediction, same in PAIRS_BY_KIND[kind]
        if compare(gold, prediction)["equal"] is not same
    ]
    assert not wrong
    assert {same for _, _, same in PAIRS_BY_KIND[kind]} == {True, False}


@pytest.mark.parametrize("piece", [r"\bm{", r"\bm", r"\text{", r"\frac", "{", r"\sqrt(", "√", "$"])
def test_commands_in_each_other_hundreds_deep_are_left_alone(piece):
    tidy(piece * (2000 // len(piece)) + "5")


@pytest.mark.parametrize("gold", [r"\frac{1}{2}", r"(2,\infty)", r"\text{east}", "3+4i", "5x"])
def test_a_tidy_answer_is_tidy(gold):
    assert tidy(tidy(gold)) == tidy(gold)
