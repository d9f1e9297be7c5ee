"""The gradients written by hand equal autograd's, and a model's own functions are replaced only where they agree."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.llama.modeling_llama import LlamaRMSNorm, rotate_half  # noqa: E402

from learner.elementwise import RMSNorm, Rotary, speed_up  # noqa: E402

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def gradients(output, inputs):
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), inputs)


def test_rms_norm_and_its_gradients_equal_autograd_in_float64():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 8).double().requires_grad_(), torch.randn(8).double().requires_grad_()
    plain = weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    fast = RMSNorm.apply(x, weight, 1e-6)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(gradients(fast, (x, weight)), gradients(plain, (x, weight)))


def test_rotary_and_its_gradient_equal_autograd_also_where_the_halves_have_different_angles():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 8).double().requires_grad_()
    cos, sin = torch.randn(1, 1, 5, 8).double(), torch.randn(1, 1, 5, 8).double()
    plain, fast = x * cos + rotate_half(x) * sin, Rotary.apply(x, cos, sin)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(gradients(fast, x), gradients(plain, x))


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3", "Llama", "Gemma2", "GPTNeoX"])
def test_a_model_computes_the_same_after_it(name):
    torch.manual_seed(0)
    shape = SHAPE if name != "GPTNeoX" else {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**shape)).float()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids = torch.arange(12).view(2, 6)
    results = []
    for each in (copy.deepcopy(model), model):
        if each is model:
            speed_up(model)
        logits = each(input_ids=ids).logits
        results.append((logits, *gradients(logits, list(each.parameters()))))
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).norm() <= 2e-5 * plain.norm() + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_another_kind_keeps_its_own(dtype):
    gemma = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SHAPE, head_dim=8)).to(dtype)
    speed_up(gemma)
    assert not any("forward" in vars(module) for module in gemma.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_on_a_cpu_goes_the_models_own_way(dtype):
    norm = LlamaRMSNorm(8).to(dtype)
    x = torch.randn(3, 8).bfloat16()
    before = norm(x)
    speed_up(norm)
    assert "forward" in vars(norm)
    assert torch.equal(norm(x), before)


def test_half_precision_on_a_gpu_takes_torchs_fused_norm(monkeypatch):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64).bfloat16()
    norm.weight.data += 0.1 * torch.randn(64).bfloat16()
    x = torch.randn(7, 64).bfloat16().requires_grad_()
    plain = norm(x)
    wanted = gradients(plain, (x, norm.weight))
    speed_up(norm)
    asked = []
    monkeypatch.setattr("learner.elementwise._is_for_fused_norm", lambda states, weight: not asked.append(states.dtype))
    fast = norm(x)
    assert asked == [torch.bfloat16] and fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-2)
    for got, expected in zip(gradients(fast, (x, norm.weight)), wanted, strict=True):
        assert (got - expected).float().norm() <= 1e-2 * expected.float().norm()


def test_autocast_leaves_both_in_float32():
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64)
    x = torch.randn(7, 64, requires_grad=True)
    plain = norm(x)
    wanted = gradients(plain, (x, norm.weight))
    speed_up(norm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = norm(x)
        got = gradients(fast, (x, norm.weight))
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(got, wanted)
