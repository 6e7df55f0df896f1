import pickle

import pytest
from gymnasium.spaces import Tuple
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    iterate,
)

from vpd_envs import Unicode


def test_samples_are_contained_encodable_and_reproducible():
    space, twin = Unicode(50), Unicode(50)
    space.seed(7)
    twin.seed(7)
    samples = [space.sample() for _ in range(300)]
    assert samples == [twin.sample() for _ in range(300)]
    assert all(sample in space and sample.encode().decode() == sample for sample in samples)
    assert {len(sample) for sample in samples} == set(range(51))
    assert any(not sample.isascii() for sample in samples)


def test_it_contains_exactly_the_texts_up_to_its_length():
    space = Unicode(3)
    assert all(text in space for text in ("", "abc", "日本\n", "\ud800", "\0"))
    assert all(thing not in space for thing in ("abcd", b"abc", None, 3, ["a"]))


def test_equality_repr_pickling_and_json():
    space = Unicode(9)
    assert space == Unicode(9) != Unicode(8)
    assert repr(space) == "Unicode(9)"
    assert pickle.loads(pickle.dumps(space)) == space
    assert space.from_jsonable(space.to_jsonable(["a", "é"])) == ["a", "é"]


def test_a_batch_is_a_tuple_of_texts():
    batch = batch_space(Unicode(5), 3)
    assert batch == Tuple([Unicode(5)] * 3)
    assert ("a", "", "hello") in batch
    assert ("a", "", "too long") not in batch
    assert batch.sample() in batch
    empty = create_empty_array(Unicode(5), 3)
    assert empty == ("", "", "")
    assert concatenate(Unicode(5), ["a", "b", "c"], empty) == ("a", "b", "c")
    assert list(iterate(batch, ("a", "b", "c"))) == ["a", "b", "c"]
    assert batch_differing_spaces([Unicode(1), Unicode(2)]) == Tuple([Unicode(1), Unicode(2)])


@pytest.mark.parametrize("length", [0, -1, 1.5, True, "3"])
def test_a_bad_length_is_refused(length):
    with pytest.raises(ValueError, match="max_length must be a positive integer"):
        Unicode(length)
