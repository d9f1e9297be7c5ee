"""Model directories: facts without loading, and a one-line error for what is missing."""

from __future__ import annotations

import json
import struct
import time

import pytest

from configs.schema import ModelSection
from data.model_files import PLACEHOLDER, check_model_dir, load_tokenizer
from orchestration.planning.shape import read_shape
from quorum.errors import DataError

CONFIG = {"model_type": "qwen2", "max_position_embeddings": 256, "vocab_size": 104, "num_attention_heads": 4}


def write_safetensors(path, num_bytes_missing=0):
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(24 - num_bytes_missing))


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    write_safetensors(tmp_path / "model.safetensors")
    return tmp_path


def refusal(path, call=check_model_dir) -> str:
    with pytest.raises(DataError) as caught:
        call(ModelSection(path=str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_facts_are_read_without_loading_the_model(directory):
    facts = check_model_dir(ModelSection(path=str(directory)))
    assert (facts.model_type, facts.max_positions, facts.vocab_size) == ("qwen2", 256, 104)
    assert (facts.num_attention_heads, facts.num_parameters, facts.has_chat_template) == (4, 6, False)


def test_facts_of_the_text_part_of_a_multimodal_model(directory):
    (directory / "config.json").write_text(json.dumps({"model_type": "any", "text_config": CONFIG}))
    assert check_model_dir(ModelSection(path=str(directory))).max_positions == 256


def test_a_chat_template_is_found_in_either_place(directory):
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert check_model_dir(ModelSection(path=str(directory))).has_chat_template
    (directory / "tokenizer_config.json").unlink()
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert check_model_dir(ModelSection(path=str(directory))).has_chat_template


def test_missing_parts_are_named(directory):
    (directory / "model.safetensors").unlink()
    assert "no weights in the model directory" in refusal(directory)
    (directory / "tokenizer.json").unlink()
    assert "no tokenizer in the model directory" in refusal(directory)
    assert "no tokenizer in the model directory" in refusal(directory, load_tokenizer)
    (directory / "config.json").unlink()
    assert "no config.json" in refusal(directory)


def test_weights_cut_short_are_noticed(directory):
    write_safetensors(directory / "model.safetensors", num_bytes_missing=4)
    assert "cut short" in refusal(directory)
    (directory / "model.safetensors").write_bytes(b"abc")
    assert "not a whole safetensors file" in refusal(directory)


def test_a_missing_shard_is_named(directory):
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight file model-2.safetensors is missing" in refusal(directory)


def test_a_configuration_that_is_no_language_model_is_refused(directory):
    (directory / "config.json").write_text("{}")
    assert "no vocab_size" in refusal(directory)
    (directory / "config.json").write_text("{broken")
    assert "config.json: cannot be read" in refusal(directory)


@pytest.mark.parametrize("call", [check_model_dir, load_tokenizer])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name(tmp_path, call):
    for path in (tmp_path / "nowhere", "./nowhere", "data/nowhere", "a/b/c"):
        assert "no such model directory" in refusal(path, call)
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file", call)


@pytest.mark.stack
def test_a_damaged_tokenizer_is_one_line(directory):
    (directory / "tokenizer.json").write_text("{broken")
    assert "the tokenizer cannot be loaded" in refusal(directory, load_tokenizer)


def test_a_hub_that_is_not_reached_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    for look in (check_model_dir, read_shape):
        with pytest.raises(DataError, match=r"owner/none: no such model directory here.*not reached at http://127"):
            look(ModelSection(path="owner/none"))
    assert time.monotonic() - began < 10


def test_a_placeholder_is_told_from_a_directory_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"placeholder.*set model\.path"):
        check_model_dir(ModelSection(path=PLACEHOLDER))
