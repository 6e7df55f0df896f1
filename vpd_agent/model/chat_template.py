"""Which chat template a tokenizer has, and the values of the arguments that the template reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.plugins import unknown
from vpd_agent.model.source import load_tokenizer

if TYPE_CHECKING:
    from vpd_agent.model.chat import Tokenizer

PLAIN = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}"
"""The chat template for models without one: the messages' texts, one after the other."""
_GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # transformers' own tag
_ALWAYS_GIVEN = {"messages", "add_generation_prompt", "tools", "documents"}
_FUNCTIONS = {"raise_exception", "strftime_now"}  # of transformers


def tokenizer_with_template(
    source: str,
    chat_template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """The tokenizer of a model with its chat template; see `Policy.load` for the arguments.

    source: what `find_model` gave.
    Raises ValueError for one that cannot be read or has no template, and as `set_arguments` does.
    """
    tokenizer = load_tokenizer(source)
    if chat_template is not None:
        tokenizer.chat_template = _read(chat_template)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"Model {source!r} has no chat template, so its prompts have no form. Pass "
            f"--chat-template FILE.jinja, or --chat-template plain for plain text."
        )
    set_arguments(tokenizer, template_arguments or {})
    return tokenizer


def set_arguments(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> None:
    """Give arguments of the chat template, such as Qwen3's enable_thinking, values of their own.

    They become part of the template: every conversation is rendered with them, whoever renders it,
    and a model that is saved keeps them. A caller of apply_chat_template that passes such an
    argument itself still has its way.

    arguments: values of JSON, by name.
    Raises ValueError for an argument that the template does not read, and for other values.
    """
    if not arguments:
        return
    template = tokenizer.get_chat_template()
    known = _arguments_of(template) - tokenizer.special_tokens_map.keys()
    for name, value in arguments.items():
        if name not in known:
            what = "argument of the model's chat template"
            raise ValueError(f"{unknown(what, name, sorted(known))} Mend --template-arguments.")
        template = (
            f"{{% if {name} is not defined %}}{{% set {name} = {_literal(name, value)} %}}"
            f"{{% endif %}}{template}"
        )
    tokenizer.chat_template = template


def _arguments_of(template: str) -> set[str]:
    """The names that a template reads and that its caller may give values to."""
    from jinja2 import Environment, TemplateError
    from jinja2.defaults import DEFAULT_NAMESPACE
    from jinja2.meta import find_undeclared_variables

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = environment.parse(_GENERATION_TAG.sub("", template))
    except TemplateError as error:
        raise ValueError(
            f"The model's chat template cannot be read as Jinja: {error}. Pass another template "
            f"with --chat-template FILE.jinja."
        ) from error
    given = _ALWAYS_GIVEN | _FUNCTIONS | DEFAULT_NAMESPACE.keys()
    return find_undeclared_variables(parsed) - given


def _literal(name: str, value: Any) -> str:
    """A JSON value as Jinja writes it: the same, but for null."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        items = (
            f"{json.dumps(k, ensure_ascii=False)}: {_literal(name, v)}" for k, v in value.items()
        )
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(name, v) for v in value)}]"
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--template-arguments {name}: expected a value of JSON, got {value!r}."
        ) from error


def _read(name: str) -> str:
    if name == "plain":
        return PLAIN
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The chat template {name!r} could not be read ({error}); expected a Jinja file or "
            f"'plain'."
        ) from error
