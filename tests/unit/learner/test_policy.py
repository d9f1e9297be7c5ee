"""Log-probabilities, entropy and the hand-computed gradient of the loss, on a model small enough to check."""

import math

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner.policy import Policy  # noqa: E402


def tiny_model():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return transformers.Qwen2ForCausalLM(config).float()


ROWS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]])
POSITIONS = torch.tensor([1, 2, 3, 6])
TARGETS = torch.tensor([5, 6, 7, 10])


def reference(model, temperature=1.0):
    """By the book: every row alone, without padding."""
    logprobs, entropies = [], []
    for tokens, start in ((ROWS[0], 2), (ROWS[1, :3], 2)):
        full = torch.log_softmax(model(input_ids=tokens[None]).logits[0] / temperature, -1)
        for i in range(start, len(tokens)):
            logprobs.append(full[i - 1, tokens[i]])
            entropies.append(-(full[i - 1].exp() * full[i - 1]).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_logprobs_and_entropies_equal_those_of_each_row_alone(temperature, num_chunks):
    model = tiny_model()
    policy = Policy(model, temperature=temperature, max_logits=64)
    logprobs, entropies = policy(ROWS, POSITIONS, TARGETS, num_chunks)
    expected_logprobs, expected_entropies = reference(model, temperature)
    torch.testing.assert_close(logprobs, expected_logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropies, expected_entropies, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_chunks_do_not_change_the_gradient(use_reentrant):
    gradients = []
    for num_chunks in (1, 3):
        model = tiny_model()
        policy = Policy(model, temperature=1.0, use_reentrant=use_reentrant)
        (policy(ROWS, POSITIONS, TARGETS, num_chunks)[0] * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_logits_are_chunked_by_the_limit():
    policy = Policy(tiny_model(), temperature=1.0, max_logits=64)
    assert [policy.num_chunks(n) for n in (0, 1, 2, 3, 5)] == [1, 1, 1, 2, 3]


def test_a_head_with_a_soft_cap_is_computed_by_the_model_itself():
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.01,
    )
    model = transformers.Gemma2ForCausalLM(config).float()
    policy = Policy(model, temperature=1.0)
    assert not policy.has_plain_head
    assert Policy(tiny_model(), temperature=1.0).has_plain_head
    _, entropies = policy(ROWS, POSITIONS, TARGETS)
    assert entropies.tolist() == pytest.approx([math.log(32)] * 4, abs=1e-3)
