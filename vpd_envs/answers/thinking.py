"""Thinking that a chat template opens in the prompt: the answer itself then has no opening tag.

Such a template (those of DeepSeek-R1 and of Qwen3's thinking models) ends the prompt in `<think>`.
An answer that is cut off before `</think>` is unfinished, but its text does not show it. So who
judges answers to such prompts puts the tag before them:

    env.step(opened_thinking(prompt) + answer)
"""

from __future__ import annotations

TAGS = ("<think>", "</think>")
PREFIX = "<think>\n"  # what stands before an answer whose thinking the prompt opened


def opened_thinking(prompt: str) -> str:
    """What to put before the answer to a prompt, as it was given to the model: `PREFIX` if the
    prompt ends in an opened `<think>`, else nothing."""
    return PREFIX if prompt.rstrip().endswith(TAGS[0]) else ""
