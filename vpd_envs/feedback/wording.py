"""What several sources do with texts: fill in templates, and leave out thinking."""

from __future__ import annotations

import string
from collections.abc import Sequence

from vpd_envs.answers.extraction import without_thinking


def without_thoughts(answer: str) -> str:
    """The answer without its thinking; empty if it never got beyond that."""
    return (without_thinking(answer) or "").strip()


def checked_template(template: str, *, may: Sequence[str], must: str) -> str:
    """The template, if it can be filled in. Raises ValueError if not."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(**dict.fromkeys(may, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        names = " and ".join(f"{{{name}}}" for name in may)
        raise ValueError(
            f"template may hold {names} (other braces doubled), got {template!r}."
        ) from error
    if must not in fields:
        raise ValueError(f"template must contain {{{must}}}, got {template!r}.")
    return template
