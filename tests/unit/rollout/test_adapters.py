"""Whole weights made of adapters and of what is on disk."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from quorum.types import AdapterMerge, TensorMeta, WeightManifest  # noqa: E402
from quorum.wire import adapter_names  # noqa: E402
from rollout.transfer.adapters import BaseWeights, merged_weights  # noqa: E402
from rollout.transfer.wire import merges_from_plain, merges_to_plain  # noqa: E402

CPU = torch.device("cpu")
STATE = {"layer.weight": torch.full((2, 3), 1 + 2**-10), "norm.weight": torch.full((3,), 1 + 2**-12)}
MERGES = (
    AdapterMerge(TensorMeta("layer.weight", "float32", (2, 3)), "bfloat16", 0.5, False),
    AdapterMerge(TensorMeta("norm.weight", "bfloat16", (3,)), "float32", None, False),
)


def adapters(scale=1.0):
    a, b = adapter_names("layer.weight")
    return {a: torch.full((4, 3), 2**-6) * scale, b: torch.full((2, 4), 2**-7)}


def test_the_base_is_rounded_to_the_learners_type_and_the_sum_formed_in_float32(tmp_path):
    """1 + 2^-10 is 1 in bfloat16; the adapter adds 4 * 2^-13 / 2, which float32 keeps."""
    save_file(STATE, tmp_path / "model.safetensors")
    made = dict(merged_weights(BaseWeights.find(str(tmp_path)), adapters(), MERGES, CPU))
    assert torch.equal(made["layer.weight"], torch.full((2, 3), 1 + 2**-12))
    assert made["norm.weight"].dtype == torch.bfloat16 and made["norm.weight"].tolist() == [1, 1, 1]


def test_shards_are_read_through_their_index(tmp_path):
    for shard, name in enumerate(STATE):
        save_file({name: STATE[name]}, tmp_path / f"model-{shard}.safetensors")
    places = {name: f"model-{shard}.safetensors" for shard, name in enumerate(STATE)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    base = BaseWeights.find(str(tmp_path))
    assert all(torch.equal(base.read(name, tensor.shape), tensor) for name, tensor in STATE.items())
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"names model-1\.safetensors, which cannot be found"):
        BaseWeights.find(str(tmp_path))


def test_what_cannot_be_merged_is_named_with_the_way_out(tmp_path):
    with pytest.raises(RuntimeError, match="has no safetensors to merge adapters into; set sync.lora to merged"):
        BaseWeights.find(str(tmp_path))
    save_file(STATE, tmp_path / "model.safetensors")
    base = BaseWeights.find(str(tmp_path))
    with pytest.raises(RuntimeError, match="no tensor other.weight, which the learner knows; set sync.lora"):
        base.read("other.weight", (1,))
    with pytest.raises(RuntimeError, match=r"norm\.weight is \[3\] on disk and \[4\] in the learner"):
        base.read("norm.weight", (4,))


def test_a_hub_name_is_looked_up_in_the_cache_as_transformers_does(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, no network."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(STATE, snapshot / "model.safetensors")
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = BaseWeights.find("someone/model")
    assert torch.equal(base.read("norm.weight", (3,)), STATE["norm.weight"])
    with pytest.raises(RuntimeError, match="someone/other has no safetensors"):
        BaseWeights.find("someone/other")


def test_merges_survive_the_engines_plain_messages():
    manifest = WeightManifest(version=1, incarnation=0, buckets=(), merges=MERGES)
    assert merges_from_plain(json.loads(json.dumps(merges_to_plain(manifest)))) == MERGES
