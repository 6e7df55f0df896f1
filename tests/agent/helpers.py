"""Small real things the tests of the trainer share."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.model.policy import Policy
from vpd_agent.tiny.model import byte_tokenizer
from vpd_envs import Problem, Status, TextEnv, Verdict


def small_policy(
    seed: int = 0, dtype: torch.dtype = torch.float32, window: int | None = None
) -> Policy:
    """A Qwen3-shaped model of one narrow layer: real code paths in milliseconds."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        initializer_range=0.3,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Policy(Qwen3ForCausalLM(config).to(dtype), tokenizer)


def rollout(
    prompt: str = "ab",
    response: str = "xy",
    *,
    policy: Policy,
    group: int = 0,
    reward: float = 0.0,
    feedback: str = "no",
    logprobs: list[float] | None = None,
) -> Rollout:
    ids = policy.tokenizer(response).input_ids
    messages = [{"role": "user", "content": prompt}]
    return Rollout(
        problem_id=prompt,
        group=group,
        messages=messages,
        prompt_ids=policy.encode(messages),
        response_ids=ids,
        logprobs=logprobs or [-1.0] * len(ids),
        text=response,
        finish="length",
        reward=reward,
        feedback=feedback,
    )


def mixed_rollouts(policy: Policy) -> list[Rollout]:
    """Six rollouts in two groups: prompts, responses and rewards of many lengths and values, one
    row without feedback, old log-probabilities near the policy's own."""
    rows = [
        ("ab", "xyz", 0, 1.0, "="),
        ("ab", "x", 0, 0.0, "wrong"),
        ("ab", "zzzz", 0, 0.0, ""),
        ("longer prompt", "q", 1, 0.0, "a longer feedback"),
        ("longer prompt", "yes!", 1, 1.0, "="),
        ("longer prompt", "ok", 1, 1.0, "fine"),
    ]
    rollouts = []
    for i, (prompt, response, group, reward, feedback) in enumerate(rows):
        draft = rollout(
            prompt, response, policy=policy, group=group, reward=reward, feedback=feedback
        )
        batch = RolloutBatch.from_rollouts([draft], [None])
        with torch.no_grad():
            own = policy.forward(batch.prompt, batch.prompt_mask, batch.response, batch.loss_mask)
        shift = 0.1 * torch.sin(torch.arange(len(response)) + i)
        logprobs = (own.logprobs[0].float() + shift).tolist()
        rollouts.append(
            rollout(
                prompt,
                response,
                policy=policy,
                group=group,
                reward=reward,
                feedback=feedback,
                logprobs=logprobs,
            )
        )
    return rollouts


def float64_policy(seed: int = 0) -> Policy:
    """A narrow GPT-2 in float64 throughout (Qwen3's RMSNorm computes in float32, whatever the
    weights are): exact enough for finite differences, and another architecture."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=512,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Policy(GPT2LMHeadModel(config).to(torch.float64), tokenizer)


class SecretLetter(TextEnv):
    """Answer with the problem's letter; the feedback tells it. Needs no sandbox."""

    def __init__(self, letters: str = "abcdefgh", split: str = "train", **kwargs) -> None:
        ids = [f"{split}-{letter}" for letter in letters]
        super().__init__(
            [Problem(i, f"{i}?", letter) for i, letter in zip(ids, letters, strict=True)], **kwargs
        )

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if answer[:1] == problem.target:
            return Verdict(1.0, Status.SOLVED, "=")
        return Verdict(0.0, Status.WRONG_ANSWER, f"want {problem.target}")


def remove_options(path: Path, *names: str) -> None:
    """From the first line of a file of judged answers, as if it had been written before there were
    these options; a dot leads into a nested one."""
    first, *rest = path.read_text().splitlines(keepends=True)
    header = json.loads(first)
    (measured,) = header.values()
    for name in names:
        *outer, last = name.split(".")
        part = measured
        for key in outer:
            part = part[key]
        del part[last]
    path.write_text(json.dumps(header) + "\n" + "".join(rest))
