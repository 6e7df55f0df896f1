"""A run that was begun before a flag existed goes on, as long as the flag has its default."""

from vpd_agent.runs.record import differences


def test_an_option_that_came_later_counts_as_having_had_its_default():
    old = {"options": {"model": "tiny"}, "config": {"steps": 3}}
    new = {"options": {"model": "tiny", "weight_transfer": "folder"}, "config": {"steps": 3}}
    assert differences(old, new) == {}
    new["options"]["weight_transfer"] = "nccl"
    assert differences(old, new) == {"weight_transfer": ("folder", "nccl")}
