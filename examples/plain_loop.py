"""A loop of one's own: transformers samples and learns, an environment judges and explains.

    vpd warmup --model tiny-warm --out runs/tiny-warm    # a tiny model, as a folder of transformers
    python examples/plain_loop.py runs/tiny-warm

The model that reads its answer and the feedback on it teaches the one that reads the problem alone.
"""

import sys

import gymnasium as gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, steps: int = 40) -> list[float]:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    envs = gym.make_vec("vpd_envs:vpd/MiniCode-v0", 64, "vector_entry_point")
    ids, solved = envs.unwrapped.problem_ids, []

    def chat(texts):
        turns = [[{"role": "user", "content": text}] for text in texts]
        how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        return tokenizer.apply_chat_template(turns, padding=True, **how)

    def log_probs(prompts, answers, mask):
        inputs = chat(prompts)
        tokens = torch.cat([inputs.input_ids, answers], 1)
        logits = model(tokens, attention_mask=torch.cat([inputs.attention_mask, mask], 1)).logits
        return logits[:, -answers.shape[1] - 1 : -1].log_softmax(-1)

    for step in range(steps):
        asked = [ids[i] for i in torch.randint(len(ids), (8,)).repeat_interleave(8)]
        prompts, _ = envs.reset(options={"problem_ids": asked})
        inputs = chat(prompts)
        sampled = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=12)
        answers = sampled[:, inputs.input_ids.shape[1] :]
        mask = (answers != tokenizer.pad_token_id).long()
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        *_, infos = envs.step(texts)
        told = [f"{p}|{a}:{f}" for p, a, f in zip(prompts, texts, infos["feedback"], strict=True)]
        teacher = log_probs(told, answers, mask).detach()
        student = log_probs(prompts, answers, mask)
        divergence = (student.exp() * (student - teacher)).sum(-1)
        mask *= torch.tensor(infos["judged"])[:, None]  # where the sandbox failed, nothing is known
        loss = (divergence * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        solved.append(infos["solved"][infos["judged"]].mean())
        print(f"step {step + 1}: {solved[-1]:.0%} solved, loss {loss.item():.3f}")
    return solved


if __name__ == "__main__":
    main(sys.argv[1])
