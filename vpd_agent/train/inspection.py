"""What a run keeps for `vpd inspect`: some rollouts of a step, and what each token was told."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpd_agent.algorithms.base import LossInputs
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.ops.losses import group_advantages
from vpd_agent.runs.run_folder import INSPECT, RunFolder
from vpd_agent.runs.thinned_file import ThinnedFile

if TYPE_CHECKING:
    from vpd_agent.train.learner import Learner

_BYTES_OF_CHARACTER = 4  # at most, in UTF-8: so many tokens may have to be read together


class Inspection:
    """Writes inspect.jsonl: a line for each step that is kept, see `kept_rollouts`.

    Everything is computed with the weights at the start of the step. It draws no random number and
    changes no weight: what a run learns does not depend on it. In several processes each computes
    numbers of its own rollouts, so that all make the same passes; the first one writes.
    """

    def __init__(self, learner: Learner, out: RunFolder) -> None:
        self._learner, self._out = learner, out
        self._file: ThinnedFile | None = None  # in the first process, once a step is kept
        self._has_warned = False

    def keep(self, rollouts: Sequence[Rollout]) -> None:
        """Write down the step that is to be trained on these rollouts, if that is due."""
        step, config = self._learner.step, self._learner.config
        number, rest = divmod(step, config.inspect_every)
        if rest or not self._is_wanted(number):
            return
        groups = most_instructive(rollouts, config.inspect_groups)
        chosen = [rollout for group in groups for rollout in group]
        kept = iter(kept_rollouts(self._learner, chosen))
        row = {
            "step": step + 1,
            "number": number,
            "groups": [
                {
                    "problem_id": group[0].problem_id,
                    "prompt": self._learner.policy.tokenizer.decode(group[0].prompt_ids),
                    "rollouts": [next(kept) for _ in group],
                }
                for group in groups
            ],
        }
        self._out.first_alone(lambda: self._append(row))

    def _is_wanted(self, number: int) -> bool:
        """In all processes alike."""
        wanted = self._out.first_alone(lambda: self._opened().wants(number))
        return bool(self._learner.processes.max(int(bool(wanted))))

    def _append(self, row: dict[str, Any]) -> None:
        if not self._opened().append(row) and not self._has_warned:
            self._has_warned = True
            self._learner.warn(
                f"Step {row['step']}: its rollouts need more room than inspect_max_mb = "
                f"{self._learner.config.inspect_max_mb:g} leaves, so vpd inspect will not show "
                f"them. Raise it, or lower inspect_groups."
            )

    def _opened(self) -> ThinnedFile:
        """At the first step that is due: a run that is resumed has cut the file by then."""
        if self._file is None:
            limit = self._learner.config.inspect_max_mb * 1e6
            self._file = ThinnedFile(self._out.path / INSPECT, limit)
        return self._file


def most_instructive(rollouts: Sequence[Rollout], count: int) -> list[list[Rollout]]:
    """The `count` whole groups whose rewards differ most: where there is credit to assign. Among
    equals, those come first that have more feedback, then those that were sampled first."""
    groups: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group].append(rollout)

    def interest(group: list[Rollout]) -> tuple[float, int]:
        rewards = [r.reward for r in group]
        return max(rewards) - min(rewards), sum(bool(r.feedback) for r in group)

    return sorted(groups.values(), key=interest, reverse=True)[:count]


def kept_rollouts(learner: Learner, rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """What inspect.jsonl says of each rollout; rollouts: whole groups.

    advantage: GRPO's, the same for every token. tokens: the text of each response token. For each
    token of the policy, null for others: student_logprob, student_entropy, and, where the rollout
    has a teacher prompt, teacher_logprob, teacher_entropy and what `Algorithm.token_values` gives
    (divergence and implicit_reward, 0 at an end that is not taught), all in nats. taught: whether
    the teacher's term applies to it.
    """
    policy = learner.policy
    prompts: Sequence[list[int] | None] = [None] * len(rollouts)
    if learner.teacher is not None:
        prompts = learner.prompts_with_feedback(rollouts)
    batch = learner.as_tensors(rollouts, prompts)
    advantages = group_advantages(batch.rewards, batch.group_mean, batch.group_std).tolist()
    values = _token_values(learner, batch.to(policy.device))
    decode = policy.tokenizer.decode
    return [
        {
            "answer": rollout.text,
            "reward": rollout.reward,
            "solved": bool(batch.solved[i]),
            "status": rollout.status,
            "finish": rollout.finish,
            "feedback": rollout.feedback,
            "demonstration": rollout.demonstration,
            "teacher_prompt": None if prompt is None else decode(prompt),
            "advantage": round(advantages[i], 4),
            "tokens": token_texts(rollout.response_ids, decode),
            **values[i],
            "taught": values[i]["taught"] and learner.may_be_taught(rollout),
        }
        for i, (rollout, prompt) in enumerate(zip(rollouts, prompts, strict=True))
    ]


@torch.no_grad()
def _token_values(learner: Learner, batch: RolloutBatch) -> list[dict[str, Any]]:
    """Of each row."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    micro_batches = learner.micro_batches(batch)
    # Spare passes, which other processes may need, come after those of this one's own rows.
    own = [*micro_batches.parts, *[None] * micro_batches.spare]
    for part, inputs in zip(own, micro_batches, strict=True):
        inputs.state = learner.state
        # The policy at the start of the step, of whatever arithmetic the engine has sampled with.
        inputs.batch = replace(inputs.batch, old_logprobs=inputs.student.logprobs)
        values = learner.algorithm.token_values(inputs)
        values |= _of_model("student", inputs) | (
            _of_model("teacher", inputs) if learner.teacher is not None else {}
        )
        for position, index in enumerate(part.tolist() if part is not None else ()):
            rows[index] = _row(inputs.batch, values, position)
    return rows


def _of_model(name: str, inputs: LossInputs) -> dict[str, Tensor]:
    logits = inputs.student if name == "student" else inputs.teacher
    return {f"{name}_logprob": logits.logprobs, f"{name}_entropy": logits.entropy}


def _row(batch: RolloutBatch, values: dict[str, Tensor], i: int) -> dict[str, Any]:
    length = int(batch.token_mask[i].sum())
    mask = batch.loss_mask[i, :length].tolist()
    row: dict[str, Any] = {"taught": False}
    for name, value in values.items():
        if name == "taught":
            row[name] = bool(value[i].any())
        elif name.startswith("student") or batch.has_teacher[i]:
            numbers = value[i, :length].tolist()
            row[name] = [_short(x) if m else None for x, m in zip(numbers, mask, strict=True)]
    return row


def _short(value: float) -> float | None:
    """To a thousandth of a nat: what a color can show. None for what is no finite number."""
    return round(value, 3) + 0.0 if math.isfinite(value) else None  # + 0: no −0


def token_texts(ids: Sequence[int], decode: Callable[[list[int]], Any]) -> list[str]:
    """The text of each token; together they are the text of all.

    A character whose bytes are spread over several tokens belongs to the last of them, "" to the
    others. Each text is what a token adds to the tokens before it, as tokenizers may write a token
    otherwise where a text begins.
    """
    texts: list[str] = []
    start = read = 0  # ids[start:read] are the tokens of the last text that was complete
    for end in range(1, len(ids) + 1):
        before, text = decode(list(ids[start:read])), decode(list(ids[start:end]))
        is_cut = text.endswith("\N{REPLACEMENT CHARACTER}")
        if is_cut and end < len(ids) and end - read < _BYTES_OF_CHARACTER:
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start, read = read, end
    return texts
