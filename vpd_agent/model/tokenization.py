"""The text side of a policy: chat messages become token ids, the ids of an answer become text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from vpd_agent.data.types import Message
from vpd_agent.model.chat import MARK, Chat
from vpd_envs.answers.thinking import TAGS, opened_thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vpd_agent.model.chat import Tokenizer

PROMPT_END = 32
"""An opened `<think>` and the white space after it fit into this many tokens."""


class Tokenization:
    """How a model's tokenizer and chat template are used; the base of `Policy`.

    model: read for its number of embeddings and for the tokens that it ends a text with.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat = Chat(tokenizer)
        # Also those that a tokenizer does not call special, such as Qwen's <think>.
        added = [t for t in map(str, tokenizer.get_added_vocab()) if t.strip()]
        self._control_tokens = re.compile("|".join(map(re.escape, added))) if added else None

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        ids = [*ids, self.tokenizer.eos_token_id, self.chat.end_id]
        return frozenset(i for i in ids if isinstance(i, int))

    @property
    def pad_id(self) -> int:
        """A token that the model has an embedding of, for positions that are masked."""
        named = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        known = [i for i in named if isinstance(i, int) and i < self.num_embeddings]
        return known[0] if known else 0

    @cached_property
    def num_embeddings(self) -> int:
        return self.model.get_input_embeddings().get_parameter("weight").shape[0]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Chat messages → prompt ids, generation header included.

        Control tokens inside a message ("<|im_end|>" in a program's output, say) become plain
        text: no content can end its turn or open another. Where the template has no system role, a
        system message is put before the first user's.

        Raises ValueError for messages that the template does not take, and for tokens that the
        model has no embedding of.
        """
        ids = self._encode(self.chat.without_system(messages))
        if max(ids, default=0) >= self.num_embeddings:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"The prompt has the token {token!r} of number {max(ids)}, the model has only "
                f"{self.num_embeddings} embeddings. Pass the model's own tokenizer, or enlarge "
                f"the model with resize_token_embeddings."
            )
        return ids

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        contents = [m["content"] for m in messages]
        if not any(map(self._has_control_tokens, contents)):
            return self.chat.tokens(self.chat.render(messages))
        marks = [MARK.format(i) for i in range(len(messages))]
        hidden = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(marks)})", self.chat.render(hidden)):
            if piece in marks:
                ids += self._plain_tokens(contents[marks.index(piece)])
            else:
                ids += self.chat.tokens(piece)
        return ids

    def continuation(self, reply: Message, after: Sequence[int] = ()) -> list[int]:
        """What follows an answer in a conversation of several turns: the end of the policy's turn,
        the reply, and the header of its next answer. The answer itself is not tokenized again.

        after: the tokens of the answer; what ended it is not repeated.

        Taken from the chat template by rendering a short conversation with a marked answer. Begins
        with the end-of-sequence token where the template ends a turn with it.
        """
        answer, content = MARK.format("answer"), MARK.format("reply")
        conversation = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": answer},
            {**reply, "content": content},
        ]
        head, tail = self.chat.render(conversation).split(answer, 1)[1].split(content, 1)
        if self.chat.stop_text is not None and self.chat.ends_with_stop_text(after):
            head = head.replace(self.chat.stop_text, "", 1)
        text = reply["content"]
        if self._has_control_tokens(text):
            ids = self.chat.tokens(head) + self._plain_tokens(text) + self.chat.tokens(tail)
        else:
            ids = self.chat.tokens(head + text + tail)
        has_ended = bool(after) and after[-1] in self.eos_ids and ids[0] in self.eos_ids
        return ids[1:] if has_ended else ids

    def _has_control_tokens(self, text: str) -> bool:
        return self._control_tokens is not None and bool(self._control_tokens.search(text))

    def _plain_tokens(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are to be plain text: the text is split after
        the first character of each, and the parts are tokenized separately."""
        ids: list[int] = []
        start = 0
        while self._control_tokens and (found := self._control_tokens.search(text, start)):
            ids += self.chat.tokens(text[start : found.start() + 1])
            start = found.start() + 1
        return ids + self.chat.tokens(text[start:])

    def decode(self, ids: Sequence[int]) -> str:
        """Response ids → answer text, without special tokens, up to the end of the turn. `<think>`
        and the like stay in the text, special or not: they tell where the answer begins."""
        answer = list(takewhile(lambda i: i not in self.eos_ids, ids))
        hidden = self._hidden_ids
        if hidden is None:
            text = self.chat.text(answer, skip_special_tokens=True)
        else:
            text = self.chat.text([i for i in answer if i not in hidden])
        return text if self.chat.stop_text is None else text.partition(self.chat.stop_text)[0]

    def answer_text(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text of a response that is to be judged. If the prompt already ends with `<think>`,
        the text begins with it, so that an answer that ends within its thinking is recognized."""
        end = self.chat.text(prompt_ids[-PROMPT_END:])
        return opened_thinking(end) + self.decode(ids)

    @cached_property
    def _hidden_ids(self) -> frozenset[int] | None:
        """The special tokens that `decode` leaves out; None: all, as none is in TAGS."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {i: str(token) for i, token in added if token.special}
        if not set(special.values()) & set(TAGS):
            return None
        return frozenset(i for i, token in special.items() if token not in TAGS)
