"""Packed equals one by one, forward and gradient, and no token reaches another sequence."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner.attention import NAME, Packing, has_options, packed_attention  # noqa: E402
from learner.body import choose_attention, run_body, run_model  # noqa: E402

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "qwen2": transformers.Qwen2Config(**SHAPE),
    "qwen2_window": transformers.Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=8),
    "llama": transformers.LlamaConfig(**SHAPE),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=3),
    "gemma2": transformers.Gemma2Config(**SHAPE, head_dim=8, sliding_window=4, attn_logit_softcapping=0.5),
    "gemma3": transformers.Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=5),
}
PADDED = {
    "sinks": transformers.GptOssConfig(
        **SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=4
    ),
    "linear_attention": transformers.Qwen3NextConfig(
        **SHAPE,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
}
LENGTHS = (9, 6, 6, 6, 2, 1)


def make(config):
    """The model under its fastest right attention, and a copy of it under its own."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).float()
    alone = copy.deepcopy(model)
    alone.set_attn_implementation("eager")
    choose_attention(model)
    return model, alone


def one_by_one(model, ids, lengths):
    parts = ids[0].split(list(lengths))
    return torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


def check(model, alone, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 40, (1, sum(lengths)), generator=generator)
    weights = torch.randn(sum(lengths), 40, generator=generator)
    gradients = []
    outputs = run_model(model, ids, lengths), one_by_one(alone, ids, lengths)
    for each, logits in zip((model, alone), outputs, strict=True):
        each.zero_grad()
        (logits * weights).sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in each.parameters() if p.grad is not None]))
    assert relative(*outputs) <= 1e-5
    assert relative(*gradients) <= 1e-5


@pytest.mark.parametrize("name", [*CONFIGS, *PADDED])
def test_packed_equals_one_by_one_in_outputs_and_gradients(name):
    model, alone = make((CONFIGS | PADDED)[name])
    assert (model.config._attn_implementation == NAME) == (name in CONFIGS)
    check(model, alone, LENGTHS)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_packed_equals_one_by_one_when_activations_are_recomputed(name, use_reentrant):
    model, alone = make(CONFIGS[name])
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    check(model, alone, LENGTHS)


@pytest.fixture(scope="module")
def grouped():
    return make(CONFIGS["qwen2_window"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 9))
def test_any_lengths_in_any_order_equal_one_by_one(grouped, lengths, seed):
    check(*grouped, tuple(lengths), seed)


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gemma2"])
def test_a_token_never_reaches_another_sequence_nor_an_earlier_token(name):
    model, _ = make(CONFIGS[name])
    packing = Packing((3, 3, 4), torch.device("cpu"))
    embeddings = torch.randn(1, 10, 32, requires_grad=True)
    made = model(inputs_embeds=embeddings, position_ids=packing.positions, packing=packing, use_cache=False).logits
    for token in range(10):
        start = (0, 0, 0, 3, 3, 3, 6, 6, 6, 6)[token]
        (reach,) = torch.autograd.grad(made[0, token].sum(), embeddings, retain_graph=True)
        seen = reach[0].abs().sum(-1) > 0
        assert not seen[:start].any() and not seen[token + 1 :].any() and seen[token]


def test_the_body_gives_hidden_states_with_and_without_a_head():
    model, _ = make(CONFIGS["llama"])
    ids = torch.arange(10)[None]
    with torch.no_grad():
        hidden = run_body(model, ids, (6, 4))
        assert torch.equal(hidden, run_body(model.base_model, ids, (6, 4)))
        torch.testing.assert_close(model.lm_head(hidden), run_model(model, ids, (6, 4)))
    assert hidden.shape == (10, 32)


def test_a_model_that_cannot_be_packed_is_padded_with_a_warning(caplog):
    model, _ = make(PADDED["sinks"])
    assert model.config._attn_implementation == "eager"
    assert "cannot attend within packed sequences" in caplog.text


def test_half_precision_is_packed_too():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["qwen3"])).bfloat16()
    assert choose_attention(model) == NAME


def test_a_call_without_packing_or_with_a_mask_is_refused():
    states = torch.zeros(1, 2, 3, 8)
    with pytest.raises(TypeError, match="through learner.body"):
        packed_attention(torch.nn.Identity(), states, states, states, None)
    with pytest.raises(TypeError, match="masks"):
        packed_attention(
            torch.nn.Identity(), states, states, states, states, packing=Packing((3,), torch.device("cpu"))
        )


def test_a_variable_length_kernel_that_lacks_an_option_is_not_used():
    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...

    def new(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa, more=None): ...

    assert not has_options(None)
    assert not has_options(old)
    assert has_options(new)
