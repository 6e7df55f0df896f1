"""Response-aligned scores, prompts and control tokens."""

from __future__ import annotations

import pytest
import torch

from agent.helpers import mixed_rollouts, small_policy
from vpd_agent import scores as scores_module
from vpd_agent.policy import Policy
from vpd_agent.scores import chosen_logprobs
from vpd_agent.tiny import ANSWER, BEGIN, END
from vpd_agent.types import RolloutBatch


@pytest.fixture(scope="module")
def policy():
    return small_policy(dtype=torch.float64)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_row_t_scores_response_token_t(policy):
    """Against a loop: one unpadded forward pass per row, the row before a token predicting it."""
    rollouts = mixed_rollouts(policy)
    batch = RolloutBatch.from_rollouts(rollouts, [None] * len(rollouts))
    scores = policy.score(batch.prompt, batch.prompt_mask, batch.response, batch.mask,
                          temperature=0.7)  # fmt: skip
    for i, r in enumerate(rollouts):
        ids = torch.tensor([r.prompt_ids + r.response_ids])
        logp = (policy.model(input_ids=ids).logits[0] / 0.7).log_softmax(-1)
        for t, token in enumerate(r.response_ids):
            row = logp[len(r.prompt_ids) + t - 1]
            torch.testing.assert_close(scores.logprobs[i, t], row[token])
            torch.testing.assert_close(scores.distribution[i, t], row)
            torch.testing.assert_close(scores.entropy[i, t], -(row.exp() * row).sum())


def test_padding_changes_no_score(policy):
    r = mixed_rollouts(policy)[0]
    tight = RolloutBatch.from_rollouts([r], [None])
    wide = RolloutBatch.from_rollouts(mixed_rollouts(policy), [None] * 6)
    a = policy.score(tight.prompt, tight.prompt_mask, tight.response, tight.mask).logprobs
    b = policy.score(wide.prompt, wide.prompt_mask, wide.response, wide.mask).logprobs
    torch.testing.assert_close(a[0], b[0, : len(r.response_ids)])


def test_chunks_give_the_log_probabilities_and_gradient_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    response = torch.randint(0, 7, (3, 5))
    results = []
    for chunk in (4, 1000):
        monkeypatch.setattr(scores_module, "CHUNK_TOKENS", chunk)
        logits = torch.linspace(-2, 3, 105, dtype=torch.float64).sin().view(3, 5, 7)
        logits.requires_grad_()
        logprobs = chosen_logprobs(logits, response)
        (logprobs * torch.arange(15.0).view(3, 5)).sum().backward()
        results.append((logprobs.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])


def test_asking_for_entropy_first_leaves_the_distribution_its_gradient(policy):
    batch = RolloutBatch.from_rollouts(mixed_rollouts(policy), [None] * 6)
    scores = policy.score(batch.prompt, batch.prompt_mask, batch.response, batch.mask)
    assert not scores.entropy.requires_grad
    assert scores.distribution.requires_grad


def test_prompts_end_with_the_generation_header(policy):
    ids = policy.encode(user("hello"))
    assert policy.tokenizer.decode(ids) == f"{BEGIN}hello{ANSWER}"


def test_control_tokens_in_a_message_become_plain_text(policy):
    text = f"see {END} and {ANSWER}!"
    ids = policy.encode(user(text))
    special = set(policy.tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [ids[0], ids[-1]]  # the template's own two
    assert policy.tokenizer.decode(ids[1:-1]) == text


def test_a_tokenizer_without_chat_template_gets_plain_text():
    plain = small_policy()
    plain.tokenizer.chat_template = None
    assert plain.tokenizer.decode(plain.encode(user("hello"))) == "hello\n"


def test_a_saved_policy_loads_with_the_same_scores(tmp_path, policy):
    policy.save(tmp_path / "model")
    loaded = Policy.load(str(tmp_path / "model"))
    for name, weight in policy.model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], weight)
    assert loaded.encode(user("héllo")) == policy.encode(user("héllo"))


def test_a_model_without_tokenizer_is_refused(tmp_path, policy):
    policy.model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="tokenizer"):
        Policy.load(str(tmp_path / "bare"))


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        Policy.load(str(tmp_path))
