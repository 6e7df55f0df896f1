"""The hyper-parameters of a run that are not the algorithm's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vpd_agent.algorithms.checks import check

AT_LEAST_ONE = (
    *("prompts_per_step", "group_size", "updates_per_batch", "mini_batches"),
    *("micro_batch_size", "micro_batch_tokens", "sampling_tokens"),
    *("max_prompt_tokens", "max_teacher_prompt_tokens", "max_response_tokens", "max_turn_tokens"),
    *("max_staleness", "eval_samples", "inspect_groups", "keep_checkpoints", "collapse_patience"),
)
AT_LEAST_ZERO = (
    *("steps", "warmup_steps", "weight_decay", "eval_every", "eval_problems", "eval_failures"),
    *("eval_successes", "save_every", "samples_every", "inspect_every", "max_skipped_steps"),
)


@dataclass(frozen=True)
class TrainConfig:
    """Everything about a run that is not the algorithm.

    Defaults: batches and lengths of the runs of SDPO, arXiv 2601.20802, on code. What else differs
    by task, model and algorithm is in presets.py.
    """

    steps: int = 100
    """Training steps: one batch of rollouts each."""
    prompts_per_step: int = 32
    """Problems in a batch."""
    group_size: int = 8
    """Rollouts of each problem, G."""
    learning_rate: float = 1e-6
    """Of AdamW, at its highest."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    learning_rate_decay: float = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to 0."""
    adam_beta1: float = 0.9
    """Of AdamW: decay of the moving average of gradients."""
    adam_beta2: float = 0.999
    """Of AdamW: decay of the moving average of squared gradients."""
    weight_decay: float = 0.0
    """Of AdamW, decoupled: weights shrink by learning rate · weight_decay in each step."""
    max_grad_norm: float = 1.0
    """The gradient of each optimizer step is scaled down to this norm."""
    max_step_kl: float | None = None
    """How far an optimizer step may move the policy: KL(π_before‖π_after), in nats per token of its
    rollouts. Where steps go further, the learning rate falls until half of them do not; where they
    do not, it rises again, up to the run's. One more forward pass per step; None: no limit, as in
    the papers."""
    updates_per_batch: int = 1
    """Passes over one batch."""
    mini_batches: int = 1
    """Optimizer steps per pass: each takes the rollouts of prompts_per_step / mini_batches
    problems, in random order. Learning rate and averaged weights (ema_rate) move at
    most once per batch."""
    micro_batch_size: int | None = None
    """Rollouts per forward and backward pass; None: all at once. Never changes the gradient."""
    micro_batch_tokens: int | None = None
    """Places per pass, rows · (longest prompt + longest response); None: no such limit."""
    sampling_tokens: int | None = None
    """Places that the engine hf decodes at once, rows · (longest prompt + longest response); None:
    512 rows, however long."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass rather than keep what they computed: less memory,
    about a third more time. Never changes the gradient."""
    sharding: Literal["none", "fsdp"] = "none"
    """With several processes: each holds all of the model, or its share of every weight, gradient
    and optimizer state (FSDP2)."""
    sampler_correction: Literal["none", "token", "sequence"] = "token"
    """How rollouts count that an engine of other arithmetic or older weights has sampled: by
    truncated importance weights π_θ/π_sampler of each token, or of the whole response."""
    sampler_clip: float = 2.0
    """Where those weights are truncated."""
    overlap: bool = False
    """Sample and judge the next batches while this one trains: rollouts are then one step old, or
    up to max_staleness, and count as sampler_correction says."""
    max_staleness: int = 1
    """With overlap: how many steps older than the policy the weights may be that sample a batch.
    With more than one, sampling goes on while weights change, and takes the new ones between two
    batches: steps of uneven length wait less for each other, but a run is not repeated bit for
    bit."""
    temperature: float = 1.0
    """Of sampling, and of student and teacher distributions alike."""
    max_prompt_tokens: int = 4096
    """Problems with a longer prompt are left out, and counted at the start."""
    max_teacher_prompt_tokens: int = 8192
    """Feedback is cut until the teacher's prompt fits."""
    max_response_tokens: int = 8192
    """Of an episode after its first prompt: the answer, or all answers and replies."""
    max_turn_tokens: int | None = None
    """Of one answer, in environments of several turns; None: what is left of the episode."""
    teach_truncated: bool = True
    """Whether a rollout that was cut off has a teacher too. Without one, neither E-step nor
    distillation counts it: what an answer would have been that does not end is hard to tell, and a
    teacher on such answers makes others run on (the "overlong filtering" of DAPO, arXiv 2503.14476,
    for the teacher's term)."""
    teach_end: bool = True
    """Whether the teacher also speaks on the token that ends an answer. Without it, neither E-step
    nor distillation counts that token: a teacher that has read why an answer is wrong would go on
    where it ended, and a student that listens stops ending its answers, right ones too."""
    success_reward: float = 1.0
    """A rollout counts as solved from this reward on."""
    eval_every: int = 10
    """Steps between evaluations on held-out problems; 0: never."""
    eval_problems: int = 300
    """Held-out problems to evaluate on, at most."""
    eval_samples: int = 1
    """Answers to each of them."""
    eval_seed: int | None = None
    """Of the choice of held-out problems and the sampling of evaluations; None: that of --seed."""
    set_aside: float = 0.0
    """Share of the training problems that is not trained on but evaluated on, in place of the
    --eval-split: to choose settings on other problems than those of the final evaluation."""
    eval_failures: int = 128
    """Failed attempts, fixed at the first evaluation, whose repair rate measures the teacher."""
    eval_successes: int = 64
    """Solved attempts, fixed at the first evaluation: how often the teacher, told that they were
    right, answers in another form, and how far the policy has gone from its first probabilities."""
    save_every: int = 50
    """Steps between checkpoints, of which there is one of the end too; 0: none but the final model,
    and where a run is interrupted."""
    keep_checkpoints: int = 2
    """The newest ones, that many; besides them the best model by held-out pass@1."""
    samples_every: int = 10
    """Steps between samples of prompts, answers, feedback and teacher prompts; 0: none."""
    samples_all: bool = False
    """Keep all rollouts of such a step, in place of its worst and its best."""
    inspect_every: int = 10
    """Steps between those of which `vpd inspect` shows what each token was told: their rollouts are
    kept with the numbers of student and teacher; 0: none."""
    inspect_groups: int = 1
    """Problems of such a step, with all their rollouts: those whose rewards differ most. One more
    pass over these rollouts, without gradient."""
    inspect_max_mb: float = 20.0
    """Size of all of it, in megabytes; where it would be larger, every second step is dropped."""
    max_skipped_steps: int = 3
    """Batches of a run that may be skipped because their loss or its gradient is not finite."""
    collapse_ratio: float = 0.5
    """A run has collapsed when held-out pass@1 (without evaluation: the mean reward of ten steps)
    stays below this share of its best; 0: never."""
    min_entropy: float | None = None
    """… or when the policy's entropy, in nats per token over ten steps, stays below this."""
    max_entropy: float | None = None
    """… or above this."""
    collapse_patience: int = 3
    """Evaluations, or tens of steps, in a row that make a collapse."""
    stop_on_collapse: bool = False
    """End a run that has collapsed; otherwise it is warned of."""
    seed: int = 0
    """Of the order of problems, the sampling and what is drawn beside it."""

    def __post_init__(self) -> None:
        for least, names in ((1, AT_LEAST_ONE), (0, AT_LEAST_ZERO)):
            for name in names:
                value = getattr(self, name)
                check(value is None or value >= least, name, f"at least {least}", value)
        positive = ("learning_rate", "max_grad_norm", "temperature", "sampler_clip")
        for name in (*positive, "inspect_max_mb"):
            check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        limit = self.max_step_kl
        check(limit is None or limit > 0, "max_step_kl", "positive", limit)
        check(0 <= self.set_aside < 1, "set_aside", "at least 0 and below 1", self.set_aside)
        decay, ratio = self.learning_rate_decay, self.collapse_ratio
        check(0 <= decay <= 1, "learning_rate_decay", "between 0 and 1", decay)
        check(0 <= ratio < 1, "collapse_ratio", "at least 0 and below 1", ratio)
        if self.max_staleness != 1 and not self.overlap:
            raise ValueError(
                f"max_staleness says how old rollouts may be that are sampled ahead, which overlap "
                f"turns on: got {self.max_staleness} without it. Add overlap, or leave it out."
            )
        if self.prompts_per_step % self.mini_batches:
            raise ValueError(
                f"mini_batches must divide prompts_per_step ({self.prompts_per_step}), since the "
                f"rollouts of a problem stay together; got {self.mini_batches}. Lower it to "
                f"{math.gcd(self.prompts_per_step, self.mini_batches)}, or change prompts_per_step."
            )

    @property
    def rollouts_per_step(self) -> int:
        return self.prompts_per_step * self.group_size
