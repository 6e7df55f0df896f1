"""TRL's SDPO on an environment of this suite: the teacher of each attempt reads the feedback on it.

    pip install 'trl>=1.8,<1.17'
    python examples/trl_sdpo.py                          # a tiny model on MiniCode: a few minutes
    python examples/trl_sdpo.py --model Qwen/Qwen3-0.6B --env vpd/Math-v0 --max-answer-tokens 2048

The tiny model is warm-started on its first use, which takes about a minute. Its teacher reads each
attempt and the feedback on it in the few characters that it knows; others read TRL's own wording.
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
import tyro
from trl.experimental.sdpo import SDPOConfig

from vpd_agent.tiny.warmup import WarmupConfig, cache_folder, warm_policy
from vpd_envs.adapters.trl import dataset, reward_function
from vpd_envs.adapters.trl_sdpo import FeedbackSDPOTrainer, feedback_alone
from vpd_envs.types import Verdict

TINY = {
    "reprompt_template": "{prompt}|{solution}{feedback}",
    "solution_template": "{successful_previous_attempt}:=",
    "feedback_template": "{feedback_raw}",
}


def tiny_wording(answer: str, verdict: Verdict) -> str:
    return f"{answer}:{verdict.feedback}"


@dataclass
class Options:
    env: str = "vpd/MiniCode-v0"
    model: str = "tiny-warm"
    out: str = "runs/trl-sdpo"
    steps: int = 100
    batch_size: int = 64
    group_size: int = 8
    learning_rate: float = 5e-4
    max_answer_tokens: int = 12


def main(options: Options) -> FeedbackSDPOTrainer:
    model, templates, wording = options.model, {}, feedback_alone
    if model == "tiny-warm":
        torch.set_num_threads(1)  # more would wait for each other: the model is that small
        warm_policy(WarmupConfig())
        model = str(cache_folder(WarmupConfig()))
        templates, wording = TINY, tiny_wording
    gpu = torch.cuda.is_available()
    env = gym.make(options.env)
    trainer = FeedbackSDPOTrainer(
        model=model,
        wording=wording,
        reward_funcs=reward_function(env),
        train_dataset=dataset(env),
        args=SDPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            num_generations=options.group_size,
            max_completion_length=options.max_answer_tokens,
            learning_rate=options.learning_rate,
            include_environment_feedback=True,
            distillation_mode="full_logits",
            use_cpu=not gpu,
            bf16=gpu,
            logging_steps=10,
            report_to="none",
            **templates,
        ),
    )
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main(tyro.cli(Options))
