"""Model shapes by name: their sizes are those of the published models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.shapes import SHAPES, empty_model, make_shape, save_shape, shape_of
from quorum.errors import ConfigError

PUBLISHED = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-14b": 14_768_307_200,
}
"""Parameters, as the index of each model's weights states them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_as_many_parameters_as_the_published_model(name: str) -> None:
    assert shape_of(name).num_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_that_is_built_has_as_many_parameters_as_its_shape_says(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = empty_model(shape_of(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == shape_of(name).num_parameters
    heads = model.model.layers[0].self_attn
    assert heads.head_dim == shape_of(name).head_dim


def test_a_shape_is_saved_without_weights_for_an_engine_that_makes_its_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_shape(tmp_path, "llama-3.1-8b")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architectures"], config["hidden_size"]) == (["LlamaForCausalLM"], 4096)
    assert not list(tmp_path.glob("*.safetensors")) and (tmp_path / "tokenizer.json").is_file()


def test_a_small_one_is_saved_with_weights_and_loads_again(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    make_shape(tmp_path, "tiny", device="cpu", dtype="bfloat16")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.num_parameters() == shape_of("tiny").num_parameters
    assert str(loaded.dtype) == "torch.bfloat16"


def test_a_shape_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="qwen3-14b"):
        shape_of("gpt-7")
