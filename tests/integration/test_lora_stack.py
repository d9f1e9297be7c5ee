"""Adapters under ZeRO: what moves, what samplers and exports get, the base model as reference, exact continuation."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from learner.rank import Rank  # noqa: E402
from tests.integration.learner_probes import FrozenBaseRank  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches, distance, read_weights  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LORA = {"rank": 4, "alpha": 8}
TOKENS = torch.tensor([[5, 9, 13, 22, 40]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def train(model, directory, num_steps=2, **section):
    """Weights and published names after some steps."""
    with Ranks(make_config(model, lora=LORA, learning_rate=1e-2, **section)) as ranks:
        for batch in batches(num_steps):
            ranks.step(batch)
        manifest = ranks.all("publish", 1, 0)[0]
        ranks.weights(directory)
    return [meta.name for bucket in manifest.buckets for meta in bucket]


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """An export of two steps of one rank at stage 0."""
    directory = tmp_path_factory.mktemp("trained") / "model"
    train(model, directory, num_ranks=1, zero_stage=0)
    return directory


@pytest.mark.parametrize(
    ("zero_stage", "precision", "tolerance"),
    [(2, "float32", 1e-4), (3, "float32", 1e-4), (1, "bfloat16", 0.3), (3, "bfloat16", 0.3)],
)
def test_every_layout_trains_the_same_adapters_and_publishes_the_base_models_names(
    model, trained, tmp_path, zero_stage, precision, tolerance
):
    from transformers import AutoModelForCausalLM

    names = train(
        model, tmp_path / "model", zero_stage=zero_stage, precision=precision, gradient_checkpointing=zero_stage > 1
    )
    base = AutoModelForCausalLM.from_pretrained(model)
    assert names == [name for name, _ in base.named_parameters()]
    start = read_weights(model).to(torch.bfloat16).float() if precision == "bfloat16" else read_weights(model)
    assert distance(read_weights(tmp_path / "model"), read_weights(trained), start) <= tolerance


def test_the_merged_export_and_the_adapter_alone_give_the_same_logits(model, trained):
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    merged = AutoModelForCausalLM.from_pretrained(trained)
    changed = {name for name, value in merged.named_parameters() if not torch.equal(value, base.get_parameter(name))}
    linear = {name for name, value in base.named_parameters() if "proj.weight" in name}
    assert changed == linear  # layer norms, biases and embeddings have not moved
    adapter = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * len(linear)
    adapted = PeftModel.from_pretrained(base, trained / "adapter")
    expected = adapted(TOKENS).logits
    assert torch.allclose(merged(TOKENS).logits, expected, atol=1e-5)
    with adapted.disable_adapter():
        assert not torch.allclose(adapted(TOKENS).logits, expected, atol=1e-3)


def test_a_fresh_learner_continues_saved_adapters_bit_for_bit(model, tmp_path):
    """At stage 3, whose checkpoints hold the frozen weights in another way than those of the adapters."""
    config = make_config(model, zero_stage=3, precision="bfloat16", lora=LORA, gradient_checkpointing=True)
    first, second = batches(2)
    with Ranks(config) as ranks:
        ranks.step(first)
        ranks.save(tmp_path)
        ranks.step(second)
        unbroken = ranks.weights(tmp_path / "unbroken")
    with Ranks(config) as ranks:
        ranks.all("load", str(tmp_path))
        ranks.step(second)
        assert torch.equal(ranks.weights(tmp_path / "resumed"), unbroken)


def test_the_base_model_is_the_policy_with_adapters_off(model):
    """The KL to it, measured and penalised, is that to a frozen copy; at stage 3, where its pass is a collective."""
    sums = []
    for kind, kl in ((Rank, {"measure": True}), (FrozenBaseRank, {"measure": True}), (Rank, {"coefficient": 0.1})):
        with Ranks(make_config(model, zero_stage=3, lora=LORA, learning_rate=1e-2, kl=kl), kind) as ranks:
            sums.append([ranks.step(batch) for batch in batches(2)])
    shared, frozen, penalised = sums
    assert shared[0].mean("kl") == pytest.approx(0, abs=1e-6) and shared[1].mean("kl") > 1e-4
    assert shared[1].mean("kl") == pytest.approx(frozen[1].mean("kl"), rel=1e-4)
    assert shared[1].grad_norm == pytest.approx(frozen[1].grad_norm, rel=1e-4)
    assert penalised[1].mean("kl") == pytest.approx(frozen[1].mean("kl"), rel=1e-4)  # no penalty in the first step yet
