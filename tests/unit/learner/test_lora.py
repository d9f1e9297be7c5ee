"""Adapters on one process: what trains, what is published, and what an export holds."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from configs.learner_sections import LoraSection  # noqa: E402
from learner.lora import add_adapters, published_weights  # noqa: E402
from quorum.errors import DataError  # noqa: E402

TOKENS = torch.tensor([[3, 7, 11, 2, 9]])


def qwen2():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2ForCausalLM(config)


def gpt2():
    """Its layers keep their weights transposed."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    return transformers.GPT2LMHeadModel(config).eval()


def adapted(model, **section):
    """A copy with adapters whose B is not zero."""
    made = copy.deepcopy(model)
    add_adapters(made, LoraSection(rank=4, alpha=8, **section))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return made


def test_fresh_adapters_change_nothing_and_are_all_that_trains():
    model = qwen2()
    made = copy.deepcopy(model)
    add_adapters(made, LoraSection(rank=4))
    assert torch.equal(made(TOKENS).logits, model(TOKENS).logits)
    trained = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7 and all("lora_" in name for name in trained)


@pytest.mark.parametrize("make", [qwen2, gpt2])
def test_published_weights_have_the_base_models_names_and_give_the_adapted_models_logits(make):
    model = make()
    made = adapted(model)
    weights = published_weights(made)
    expected = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    assert [(weight.name, weight.shape) for weight in weights] == expected
    before = {name: parameter.clone() for name, parameter in made.named_parameters()}
    merged = copy.deepcopy(model)
    merged.load_state_dict({weight.name: weight.read() for weight in weights}, strict=False)
    assert not torch.allclose(merged(TOKENS).logits, model(TOKENS).logits, atol=1e-3)
    assert torch.allclose(merged(TOKENS).logits, made(TOKENS).logits, atol=1e-5)
    assert all(torch.equal(before[name], parameter) for name, parameter in made.named_parameters())


def test_the_sum_is_formed_in_float32_from_bfloat16_parts():
    """The base is 1, the adapter adds 2^-10: in bfloat16 the sum would be 1 again."""
    made = adapted(qwen2().to(torch.bfloat16), target_modules=("q_proj",))
    weight = next(weight for weight in published_weights(made) if len(weight.sources) == 3)
    base, a, b = weight.sources
    with torch.no_grad():
        base.fill_(1.0), a.fill_(2**-6), b.fill_(2**-7)
    merged = weight.read()  # 4 ranks * 2^-13 * alpha 8 / rank 4
    assert merged.dtype == torch.float32 and torch.equal(merged, torch.full_like(merged, 1 + 2**-10))


@pytest.mark.parametrize(("target", "said"), [("no_such_layer", "no_such_layer"), ("embed_tokens", "only linear")])
def test_layers_that_cannot_have_adapters_are_named(target, said):
    with pytest.raises(DataError, match=said):
        add_adapters(qwen2(), LoraSection(rank=4, target_modules=(target,)))
