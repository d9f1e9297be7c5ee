"""Log-probabilities, entropy and the hand-computed gradient of the loss, on a model small enough to check."""

import math

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner.policy import Policy  # noqa: E402
from learner.scores import score  # noqa: E402


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


IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]])
LENGTHS = (5, 3)
POSITIONS = torch.tensor([1, 2, 3, 6])
TARGETS = torch.tensor([5, 6, 7, 10])
BATCH = (IDS, LENGTHS, POSITIONS, TARGETS)


def reference(model, temperature=1.0):
    """By the book: every sequence alone, under the model's own attention."""
    model.set_attn_implementation("eager")
    logprobs, entropies = [], []
    for tokens, start in ((IDS[0, :5], 2), (IDS[0, 5:], 2)):
        full = torch.log_softmax(model(input_ids=tokens[None]).logits[0] / temperature, -1)
        for i in range(start, len(tokens)):
            logprobs.append(full[i - 1, tokens[i]])
            entropies.append(-(full[i - 1].exp() * full[i - 1]).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_logprobs_and_entropies_equal_those_of_each_sequence_alone(temperature, num_chunks):
    model = tiny_model()
    policy = Policy(model, temperature=temperature, max_logits=64)
    logprobs, entropies = policy(*BATCH, num_chunks)
    expected_logprobs, expected_entropies = reference(model, temperature)
    torch.testing.assert_close(logprobs, expected_logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropies, expected_entropies, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_chunks_do_not_change_the_gradient(use_reentrant):
    gradients = []
    for num_chunks in (1, 3):
        model = tiny_model()
        policy = Policy(model, temperature=1.0, use_reentrant=use_reentrant)
        (policy(*BATCH, num_chunks)[0] * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum().backward()
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
    _, entropies = policy(*BATCH)
    assert entropies.tolist() == pytest.approx([math.log(32)] * 4, abs=1e-3)


def by_hand(logits, targets):
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(-1, targets[:, None])[:, 0]
    return chosen, -(log_p.exp() * log_p).sum(-1), -log_p.mean(-1) - math.log(logits.shape[-1])


def test_scores_and_their_gradients_equal_those_of_plain_autograd_in_float64():
    torch.manual_seed(0)
    logits, targets = (torch.randn(6, 9).double() * 3).requires_grad_(), torch.tensor([0, 1, 2, 3, 8, 8])
    weights = torch.randn(2, 6).double()
    expected = by_hand(logits, targets)
    (wanted,) = torch.autograd.grad((weights[0] * expected[0] + weights[1] * expected[1]).sum(), logits)
    logprobs, entropies, certainties = score(logits, targets, True, True)
    torch.testing.assert_close((logprobs, entropies, certainties), expected)
    (got,) = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropies).sum(), logits)
    torch.testing.assert_close(got, wanted)
    assert not certainties.requires_grad and not score(logits, targets)[1].requires_grad


def test_a_token_that_cannot_be_drawn_counts_nothing_in_the_entropy_and_its_gradient():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logprobs, entropies = score(logits, torch.tensor([1]), True)
    assert entropies.item() == pytest.approx(math.log(2))
    (logprobs + entropies).sum().backward()
    assert logits.grad[0].tolist() == pytest.approx([-0.5, 0.5, 0.0])


@pytest.mark.parametrize("num_chunks", [1, 3])
def test_self_certainty_is_the_divergence_of_the_uniform_distribution(num_chunks):
    model = tiny_model()
    certainties = Policy(model, temperature=1.0)(*BATCH, num_chunks, want_self_certainty=True)[2]
    model.set_attn_implementation("eager")
    uniform = torch.full((32,), 1 / 32)
    full = torch.log_softmax(model(input_ids=IDS[:, :5]).logits[0], -1)
    divergence = torch.nn.functional.kl_div(full[1:4], uniform.expand(3, 32), reduction="none").sum(-1)
    torch.testing.assert_close(certainties[:3], divergence, rtol=1e-4, atol=1e-6)


def test_scores_under_autocast_are_in_float32():
    logits, targets = torch.randn(5, 50) * 3, torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scored = score(logits, targets, False, True)
    torch.testing.assert_close(scored, by_hand(logits, targets), rtol=1e-5, atol=1e-6)
