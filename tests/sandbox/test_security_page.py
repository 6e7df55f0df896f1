"""The page on security names what was tried: every attack, and only tests that there are."""

import re
from pathlib import Path

from attacks import ATTACKS

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()


def test_the_page_names_every_attack_and_its_kinds_count_them_all():
    table = PAGE.partition("| kind | tried |")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row[1])]
    assert sorted(names) == sorted(attack.name for attack in ATTACKS)
    assert f"{len(ATTACKS)} programs" in PAGE


def test_the_page_says_which_attacks_local_does_not_cover():
    listed = PAGE.partition("Never covered by `local`:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {a.name for a in ATTACKS if a.local == "none"}
    listed = PAGE.partition("Covered by `local` as root only:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {a.name for a in ATTACKS if a.local == "root"}


def test_the_tests_that_the_page_names_are_there():
    tests = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()
