"""TRL's GRPO on an environment of this suite, with feedback in its log of completions.

    pip install 'trl>=1.8,<2'
    python examples/trl_grpo.py                          # a tiny model on MiniCode: a few minutes
    python examples/trl_grpo.py --model Qwen/Qwen3-0.6B --env vpd/Math-v0 --max-answer-tokens 2048

The tiny model is warm-started on its first use, which takes about a minute.
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
import tyro
from trl import GRPOConfig, GRPOTrainer

from vpd_agent.tiny.warmup import WarmupConfig, cache_folder, warm_policy
from vpd_envs.adapters.trl import dataset, reward_function


@dataclass
class Options:
    env: str = "vpd/MiniCode-v0"
    model: str = "tiny-warm"
    out: str = "runs/trl"
    steps: int = 100
    batch_size: int = 64
    group_size: int = 8
    learning_rate: float = 2e-4
    max_answer_tokens: int = 12


def main(options: Options) -> GRPOTrainer:
    model = options.model
    if model == "tiny-warm":
        torch.set_num_threads(1)  # more would wait for each other: the model is that small
        warm_policy(WarmupConfig())
        model = str(cache_folder(WarmupConfig()))
    gpu = torch.cuda.is_available()
    env = gym.make(options.env)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward_function(env),
        train_dataset=dataset(env),
        args=GRPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            num_generations=options.group_size,
            max_completion_length=options.max_answer_tokens,
            learning_rate=options.learning_rate,
            use_cpu=not gpu,
            bf16=gpu,
            logging_steps=10,
            log_completions=True,
            num_completions_to_print=4,
            report_to="none",
        ),
    )
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main(tyro.cli(Options))
