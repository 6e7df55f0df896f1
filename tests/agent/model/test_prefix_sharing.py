"""Prompts that begin alike, cut so that the beginning is there once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpd_agent.data.padding import pad_left
from vpd_agent.model.prefix_sharing import SplitPrompts, split_prompts


def split_rows(rows: list[list[int]]) -> SplitPrompts | None:
    return split_prompts(*pad_left(rows, pad_id=9))


def rows_of(ids, mask) -> list[list[int]]:
    return [row[present].tolist() for row, present in zip(ids, mask, strict=True)]


def put_together(split: SplitPrompts) -> list[list[int]]:
    prefixes = rows_of(split.prefix, split.prefix_mask)
    rests = rows_of(split.rest, split.rest_mask)
    return [prefixes[k] + rest for k, rest in zip(split.which.tolist(), rests, strict=True)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8))
def test_prefix_and_rest_are_the_prompt_again(rows):
    split = split_rows(rows)
    if split is None:
        begin_alike = any(
            a[0] == b[0] and min(len(a), len(b)) > 1 for i, a in enumerate(rows) for b in rows[:i]
        )
        assert not begin_alike or min(map(len, rows)) == 1
        return
    assert put_together(split) == rows
    assert split.rest_mask.any(1).all()
    assert split.prefix_mask.any(1).all()


def test_prompts_of_a_problem_are_cut_where_their_feedback_begins():
    """Two problems of 5 and 3 tokens, each with feedback of 1, 2 and 2 tokens and a last token that
    is the same again: 2 prefixes in 5 positions, 6 rests in 3."""
    problems = [[1, 2, 3, 4, 5], [1, 7, 8]]
    feedback = [[11], [12, 13], [14, 15]]
    rows = [problem + text + [6] for problem in problems for text in feedback]
    order = [3, 0, 4, 1, 5, 2]  # the problems by turns
    split = split_rows([rows[i] for i in order])
    assert sorted(rows_of(split.prefix, split.prefix_mask)) == sorted(problems)
    assert put_together(split) == [rows[i] for i in order]
    assert split.positions == 2 * 5 + 6 * 3


def test_of_prompts_that_are_the_same_only_the_last_token_is_left():
    rows = [[1, 2, 3], [1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 5]]
    split = split_rows(rows)
    assert put_together(split) == rows
    assert split.prefix.shape == (2, 3)
    assert split.rest.tolist() == [[3], [3], [5], [5]]


def test_a_prompt_that_is_alone_costs_the_others_nothing():
    """It is a prefix of its own, all but its last token, rather than a rest as long as it is."""
    same, alone = [1, 2, 3, 4], [5, 6, 7, 8, 9, 10]
    split = split_rows([same, alone, same, same])
    assert put_together(split) == [same, alone, same, same]
    assert split.prefix.shape == (2, 5)
    assert split.rest.shape == (4, 1)


def test_prompts_with_nothing_in_common_are_not_cut():
    assert split_rows([[1, 2, 3], [2, 2, 3], [3, 2, 3]]) is None
    assert split_rows([[1, 2, 3]]) is None
