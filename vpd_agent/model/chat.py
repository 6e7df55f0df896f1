"""Chat templates: how messages become text, and what ends the turn of an answer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from vpd_agent.data.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

    Tokenizer = PreTrainedTokenizer | PreTrainedTokenizerFast

MARK = "\ue000{}\ue001"
"""Takes the place of a message's text while a template is rendered. The characters are of Unicode's
private use area: no template contains them, and none strips them."""


class Chat:
    """A tokenizer's chat template. What it can do is found by rendering short conversations."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def render(self, messages: Sequence[Message], *, answer_follows: bool = True) -> str:
        """The text of a conversation; with the header of an answer if one follows.

        Raises ValueError if the template does not take these messages.
        """
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer_follows
            )
        except TemplateError as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ValueError(
                f"The model's chat template does not take messages of the roles {roles}: {error}. "
                f"Pass another template with --chat-template FILE.jinja."
            ) from error
        assert isinstance(text, str)  # of one conversation
        return text

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without any that the tokenizer would put around it."""
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def text(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        assert isinstance(text, str)  # of one list of ids
        return text

    def without_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, with a system message put before the first user's text where the template
        has no system role."""
        messages = list(messages)
        if not messages or messages[0]["role"] != "system" or self._takes_system:
            return messages
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            return [{**system, "role": "user"}, *rest]
        first = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
        return [first, *rest[1:]]

    @cached_property
    def _takes_system(self) -> bool:
        system, user = MARK.format("system"), MARK.format("user")
        try:
            text = self.render(
                [{"role": "system", "content": system}, {"role": "user", "content": user}]
            )
        except ValueError:
            text = ""
        if system not in text:
            warnings.warn(
                "The model's chat template has no system role: system messages are put before the "
                "first user message.",
                stacklevel=2,
            )
        return system in text

    @cached_property
    def end_id(self) -> int | None:
        """The token with which the template ends an answer; None if it ends it with several, or
        with nothing."""
        ids = self.tokens(self._end)
        return ids[0] if ids and ids[0] in self._control_ids else None

    @cached_property
    def stop_text(self) -> str | None:
        """The text with which the template ends an answer, where no single token is known for it:
        the model has to write it out. None if there is none, or `end_id`."""
        return None if not self._end.strip() or self.end_id is not None else self._end

    def cut_at_stop_text(self, ids: Sequence[int]) -> int | None:
        """How many tokens an answer has up to where the stop text is complete; None: it is not."""
        if self.stop_text is None or self.stop_text not in self.text(ids):
            return None
        fewest, most = 1, len(ids)
        while fewest < most:
            middle = (fewest + most) // 2
            if self.stop_text in self.text(ids[:middle]):
                most = middle
            else:
                fewest = middle + 1
        return most

    def ends_with_stop_text(self, ids: Sequence[int]) -> bool:
        """Whether the newest of these tokens completes the stop text."""
        if self.stop_text is None:
            return False
        longest = len(self.stop_text.encode()) + 4  # no token is shorter than a byte
        return self.stop_text in self.text(ids[-longest:])

    @cached_property
    def _end(self) -> str:
        """What the template writes behind an answer, or else before the next message."""
        answer, reply = MARK.format("answer"), MARK.format("reply")
        conversation = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": reply},
        ]
        end = self._between(conversation[:2], answer, None).strip()
        if end:
            return end.splitlines()[0].rstrip()
        header = self._between(conversation, answer, reply).rstrip()
        return header.lstrip() if self._begins_with_control_token(header) else header

    def _between(self, messages: list[Message], start: str, end: str | None) -> str:
        try:
            text = self.render(messages, answer_follows=False)
        except ValueError:
            return ""
        behind = text.partition(start)[2]
        return behind if end is None else behind.partition(end)[0]

    def _begins_with_control_token(self, text: str) -> bool:
        ids = self.tokens(text.lstrip())
        return bool(ids) and ids[0] in self._control_ids

    @property
    def _control_ids(self) -> set[int]:
        return {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
