"""Packed equals one by one, forward and gradient, and no token reaches another sequence."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner.attention import NAME, Packing, _variable_lengths, has_options, packed_attention  # noqa: E402
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


def check_continued(model, alone, lengths, continues, seed=0):
    """A row whose sequences continue others, beside every sequence whole and alone."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 40, (1, sum(lengths)), generator=generator)
    weights = torch.randn(sum(lengths), 40, generator=generator)
    parts = ids[0].split(list(lengths))
    whole = [part if i < 0 else torch.cat([parts[i], part]) for part, i in zip(parts, continues, strict=True)]
    each_alone = one_by_one(alone, torch.cat(whole)[None], tuple(map(len, whole))).split(list(map(len, whole)))
    wanted = torch.cat([logits[-length:] for logits, length in zip(each_alone, lengths, strict=True)])
    outputs, gradients = (run_model(model, ids, lengths, continues), wanted), []
    for each, logits in zip((model, alone), outputs, strict=True):
        each.zero_grad()
        (logits * weights).sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in each.parameters() if p.grad is not None]))
    assert relative(*outputs) <= 1e-5
    assert relative(*gradients) <= 1e-5


@pytest.mark.parametrize("name", [*CONFIGS, *PADDED])
def test_completions_that_share_a_prompt_equal_each_with_a_prompt_of_its_own(name):
    model, alone = make((CONFIGS | PADDED)[name])
    check_continued(model, alone, (8, 3, 3, 6, 6, 2, 5, 1), (-1, -1, -1, 0, 0, 0, 1, 1))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_shared_prompts_stay_right_when_activations_are_recomputed(use_reentrant):
    model, alone = make(CONFIGS["qwen2_window"])
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    check_continued(model, alone, (8, 6, 6, 2), (-1, 0, 0, 0))


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


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_sequences_that_continue_any_others_equal_each_alone(grouped, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    num_roots = data.draw(st.integers(1, len(lengths)))
    parents = st.integers(-1, num_roots - 1)
    continues = [-1] * num_roots + [data.draw(parents) for _ in lengths[num_roots:]]
    check_continued(*grouped, tuple(lengths), tuple(continues), data.draw(st.integers(0, 9)))


def test_a_completion_sees_its_prompt_and_no_other_completion():
    model, _ = make(CONFIGS["qwen2"])
    packing = Packing((3, 2, 2), torch.device("cpu"), (-1, 0, 0))
    assert packing.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4]]
    embeddings = torch.randn(1, 7, 32, requires_grad=True)
    made = model(inputs_embeds=embeddings, position_ids=packing.positions, packing=packing, use_cache=False).logits
    (reach,) = torch.autograd.grad(made[0, 6].sum(), embeddings)
    assert (reach[0].abs().sum(-1) > 0).tolist() == [True, True, True, False, False, True, True]


def test_a_sequence_that_continues_one_which_continues_another_is_refused():
    with pytest.raises(AssertionError, match="continues another"):
        Packing((3, 2, 2), torch.device("cpu"), (-1, 0, 1))


def test_what_sequences_see_is_what_they_continue_and_themselves():
    keys = Packing((3, 2, 1), torch.device("cpu"), (-1, 0, 0)).keys
    assert keys.bounds.tolist() == [0, 3, 8, 12]
    assert keys.tokens.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5]


def variable_lengths_by_hand(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """torch's kernel by its description: queries are the last tokens of what their sequence sees."""
    assert (max_q, max_k) == (max(cu_q.diff()), max(cu_k.diff()))
    made = []
    for q, start, end in zip(query.split(cu_q.diff().tolist()), cu_k, cu_k[1:], strict=False):
        mask = torch.ones(len(q), end - start, dtype=torch.bool).tril(end - start - len(q))
        mask = mask.triu(end - start - len(q) - window_size[0]) if window_size[0] >= 0 else mask
        states = (states.transpose(0, 1) for states in (q, key[start:end], value[start:end]))
        out = torch.nn.functional.scaled_dot_product_attention(*states, mask, scale=scale, enable_gqa=enable_gqa)
        made.append(out.transpose(0, 1))
    return torch.cat(made)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("continues", [(), (-1, -1, 0, 0, 1, -1)])
def test_the_variable_length_kernel_is_told_what_the_calls_by_length_compute(monkeypatch, window, continues):
    monkeypatch.setattr("learner.attention.varlen_attn", variable_lengths_by_hand)
    packing = Packing((5, 3, 4, 2, 2, 1), torch.device("cpu"), continues)
    torch.manual_seed(0)
    states = [torch.randn(1, heads, 17, 8) for heads in (4, 2, 2)]
    wanted, _ = packed_attention(torch.nn.Identity(), *states, None, packing=packing, sliding_window=window)
    query, *seen = (each.transpose(1, 2) for each in states)
    if packing.keys is not None:
        seen = [packing.keys.of_row(each) for each in seen]
    torch.testing.assert_close(_variable_lengths(packing, query, *seen, None, window), wanted)


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
