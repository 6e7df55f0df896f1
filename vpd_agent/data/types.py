"""Messages and rollouts: what is sampled, before it becomes tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

Message = dict[str, str]  # {"role": ..., "content": ...}


@dataclass(frozen=True)
class Rollout:
    """One episode at one problem, with what the environment said of it.

    With several turns, `response_ids` holds everything after the first prompt: the policy's answers
    and, between them, what the environment replied. `is_policy_token` tells the policy's tokens.
    """

    problem_id: str
    group: int  # rollouts of one problem in one batch share it
    messages: list[Message]  # the first prompt, as the environment gave it
    prompt_ids: list[int]
    response_ids: list[int]  # ends with the end-of-sequence token if finish == "stop"
    logprobs: list[float]  # of response_ids, as the engine that sampled them saw them
    text: str  # the last answer, decoded: what the environment judged
    finish: str  # "stop" or "length"
    reward: float
    feedback: str  # on this attempt; what is said beside the demonstration
    status: str = ""  # the environment's word for the outcome, for reports only
    is_policy_token: list[bool] | None = None  # which of response_ids the policy sampled; None: all
    judge_seconds: float = 0.0  # of the answer that took longest; 0 where the environment is silent
    demonstration: str = ""  # a solved answer of another rollout, which the teacher may be shown
    # The student's prompt, where `prompt_ids` is a teacher's that was sampled on; None elsewhere.
    plain_prompt_ids: list[int] | None = None
    # Of several turns: the answers before `text`.
    earlier: list[str] = field(default_factory=list)

    @property
    def is_teacher_rollout(self) -> bool:
        """Whether the policy sampled it on a teacher's prompt."""
        return self.plain_prompt_ids is not None
