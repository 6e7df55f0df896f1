"""The teacher: whose weights answer the teacher's prompt."""

from __future__ import annotations

from typing import Any, Literal

import torch

from vpd_agent.model.policy import Policy
from vpd_agent.runs.identity import weights_hash

TeacherWeights = Literal["live", "ema", "frozen", "trust_region"]


class Teacher:
    """Whose weights answer the teacher's prompt.

    weights: live: the student's own; ema: their moving average, θ_T ← (1−rate)·θ_T + rate·θ
        with each `update`; frozen: the initial ones; trust_region: initial and present ones, whose
        logits are interpolated, (1−share)·frozen + share·student. (SDPO, arXiv 2601.20802; OPSD,
        arXiv 2601.18734.)
    model: another model with the student's vocabulary, often a larger one. It is the teacher as it
        is, so weights is then "frozen" whatever is given, and takes no gradient from here on.
        (On-policy distillation, arXiv 2306.13649.)
    student_share: of the student's logits in those of the teacher.

    Raises ValueError for a model that is the student or has another vocabulary.
    """

    def __init__(
        self,
        student: Policy,
        weights: TeacherWeights,
        rate: float,
        trust_region: float = 0.1,
        *,
        model: Policy | None = None,
    ) -> None:
        self.weights: TeacherWeights = weights if model is None else "frozen"
        self.rate = rate
        self.student_share = trust_region if self.weights == "trust_region" else 0.0
        self._student = student
        self.model_hash: str | None = None  # of another model's weights
        if model is student:
            raise ValueError("The teacher must be another model: for a live teacher give none.")
        if model is not None:
            _use_vocabulary(model, student)
            model.model.requires_grad_(False)
            self.model_hash = weights_hash(model)
            self.policy = model
        elif weights == "live":
            self.policy = student
        else:
            self.policy = student.frozen_copy() if weights == "ema" else student.reference()

    @property
    def is_other_model(self) -> bool:
        """Whether the teacher is no copy of the student, so that it needs an engine of its own."""
        return self.model_hash is not None

    @torch.no_grad()
    def update(self) -> None:
        """Follow the student; to be called after each training step that moves the average."""
        if self.weights == "ema":
            self.policy.ema_update_(self._student, self.rate)

    def state_dict(self) -> dict[str, Any] | None:
        """Weights that differ from the student's; None for a live teacher. Of another model, which
        does not change, only a hash."""
        if self.model_hash is not None:
            return {"model_hash": self.model_hash}
        return None if self.weights == "live" else self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take what `state_dict` gave. Raises ValueError if it is of another kind of teacher, or of
        another model."""
        there = None if state is None else state.get("model_hash")
        if (state is None) != (self.weights == "live") or (
            (there is None) != (self.model_hash is None)
        ):
            kind = "another model" if self.is_other_model else repr(self.weights)
            raise ValueError(
                f"The checkpoint was written with another kind of teacher than {kind}."
            )
        if there != self.model_hash:
            raise ValueError(
                "The checkpoint was written with another model as its teacher: the weights differ. "
                "Resume with the same one."
            )
        if state is not None and there is None:
            self.policy.load_state_dict(state)


def _use_vocabulary(teacher: Policy, student: Policy) -> None:
    """Let a model predict exactly the student's tokens. Raises ValueError if it cannot.

    Models of one family often have more embeddings than their tokenizer has tokens, each another
    number of them: what the teacher has beyond the student's is left out.
    """
    theirs, own = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    if theirs != own:
        token = min(theirs.items() ^ own.items(), key=lambda item: item[1])[0]
        raise ValueError(
            f"The teacher must have the student's tokenizer, but the vocabularies differ: "
            f"{token!r} is token {own.get(token)} of the student's and {theirs.get(token)} of the "
            f"teacher's. Choose a teacher of the student's family."
        )
    count, of_student = teacher.num_embeddings, student.num_embeddings
    if count < of_student:
        raise ValueError(
            f"The teacher has embeddings of {count} tokens, fewer than the {of_student} of the "
            f"student. Choose another model as the teacher."
        )
    if count > of_student:
        teacher.model.resize_token_embeddings(of_student)
        del teacher.num_embeddings  # what was cached
