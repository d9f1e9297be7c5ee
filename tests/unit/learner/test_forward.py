"""A forward pass shares prompts only where its module does so rightly, and then gives what it gives without."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner import attention  # noqa: E402
from learner.batch import Row, computed_tokens  # noqa: E402
from learner.collate import collate  # noqa: E402
from learner.critic import ValueModel  # noqa: E402
from learner.forward import Forward  # noqa: E402
from learner.policy import Policy  # noqa: E402
from tests.builders import make_group, make_prompt  # noqa: E402

CPU = torch.device("cpu")


def make_policy(kind: type = transformers.Qwen2Config, **settings) -> Policy:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = kind(**{**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, **settings})
    return Policy(transformers.AutoModelForCausalLM.from_config(config).float(), temperature=0.7, max_logits=256)


def rows_and_groups(is_shared: bool):
    """Two groups, of which one prompt is shared by three completions and the other by one."""
    groups = [
        make_group([(5, 6, 7, 8, 9), (5, 6), (9,)], group_id=0, prompt=make_prompt(0, range(3, 10))),
        make_group([(1, 2, 3)], group_id=1, prompt=make_prompt(1, (4, 2))),
    ]
    rows = [
        Row(group, completion, len(prompt) + tokens, len(prompt), is_shared)
        for group, completion, tokens in ((0, 0, 5), (0, 1, 2), (0, 2, 1), (1, 0, 3))
        for prompt in [groups[group].prompt_token_ids]
    ]
    return rows, groups


@pytest.mark.parametrize("kind", [transformers.Qwen2Config, transformers.LlamaConfig, transformers.MistralConfig])
@pytest.mark.parametrize("is_critic", [False, True])
def test_values_and_gradients_are_the_same_with_a_shared_prompt(kind, is_critic):
    found = []
    for is_shared in (False, True):
        policy = make_policy(kind, **({"sliding_window": 3} if kind is transformers.MistralConfig else {}))
        module = ValueModel(policy) if is_critic else policy
        if is_critic:
            torch.nn.init.ones_(module.head.weight)
        rows, groups = rows_and_groups(is_shared)
        batch = collate(rows, groups)
        values = Forward(module, policy, CPU)(batch, computed_tokens(rows))
        torch.manual_seed(1)
        (values[0] * torch.randn(len(values[0]))).sum().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
        found.append((batch.input_ids.size, *(value.detach() for value in values), gradient))
    assert (found[0][0], found[1][0]) == (34, 20)
    for plain, shared in zip(found[0][1:], found[1][1:], strict=True):
        assert float((shared - plain).norm() / plain.norm()) <= 1e-5


def test_a_model_that_packs_shares_prompts_and_one_that_is_padded_does_not():
    policy = make_policy()
    assert Forward(policy, policy, CPU).may_share()
    policy.model.set_attn_implementation("eager")
    assert not Forward(policy, policy, CPU).may_share()


def test_a_module_that_computes_something_else_with_a_shared_prompt_does_not_share():
    policy = make_policy()

    def forward(row, lengths, positions, targets, num_chunks, *, continues):
        return policy(row, lengths, positions, targets, num_chunks)

    assert not Forward(SimpleNamespace(forward=forward), policy, CPU).may_share()


def test_a_gpu_shares_in_half_precision_with_the_variable_length_kernel_alone(monkeypatch):
    policy, cuda = make_policy(), torch.device("cuda")
    assert not policy.shares_prompts(cuda)
    policy.autocast = torch.bfloat16
    assert policy.shares_prompts(cuda) == attention.has_options(attention.varlen_attn)
    monkeypatch.setattr("learner.policy.varlen_attn", None)
    assert not policy.shares_prompts(cuda)
