"""What the plan says of memory: ZeRO's arithmetic, the KV cache, and the setting named when something is too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.planning.activations import Compute, activations
from orchestration.planning.learner_memory import Load, learner_memory
from orchestration.planning.remedies import learner_remedy, sampler_remedy
from orchestration.planning.sampler_memory import sampler_memory
from orchestration.planning.shape import ModelShape, make_shape, read_shape
from quorum.errors import DataError

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 512,
}
LOAD = Load(1000, 800)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return make_shape("tiny", "qwen2", SIZES | {"tie_word_embeddings": True})


@pytest.fixture(scope="module")
def large() -> ModelShape:
    """As many parameters as Qwen2.5-7B."""
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    return make_shape("large", "qwen2", sizes | {"num_key_value_heads": 4, "vocab_size": 152064})


def make_config(rollout: dict[str, Any] | None = None, **learner: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused.jsonl"}], "max_prompt_tokens": 1024},
            "rollout": {"max_completion_tokens": 3072, **(rollout or {})},
            "learner": learner,
        }
    )


def test_parameters_are_counted_from_the_configuration_alone_tied_ones_once(tmp_path: Path) -> None:
    made = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **SIZES}
    counts = []
    for tied in (True, False):
        (tmp_path / "config.json").write_text(json.dumps(made | {"tie_word_embeddings": tied}))
        counts.append(read_shape(make_config().model.model_copy(update={"path": str(tmp_path)})).num_parameters)
    layer = 256 * (256 + 128 + 128) + 512 + 256 * 256 + 3 * 256 * 768 + 2 * 256
    assert counts == [4 * layer + 512 * 256 + 256, 4 * layer + 2 * 512 * 256 + 256]


def test_a_model_without_configuration_is_an_error_that_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        read_shape(make_config().model.model_copy(update={"path": str(tmp_path)}))


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 8 + 12 / 4), (2, 2 + 4 / 4 + 12 / 4), (3, 18 / 4)])
def test_zero_divides_optimizer_gradients_and_weights_in_turn(
    large: ModelShape, stage: int, per_parameter: float
) -> None:
    """Stages 0 and 1 keep float32 weights; from stage 2 on bfloat16 ones beside float32 masters."""
    memory = learner_memory(make_config(num_ranks=4, zero_stage=stage), large, on_gpu=True, load=LOAD)
    names = ("weights", "gradients", "master weights", "Adam's moments")
    assert sum(map(memory.named, names)) == pytest.approx(per_parameter * large.num_parameters)


def test_offloaded_state_moves_to_the_host(large: ModelShape) -> None:
    kept, moved, all_moved = (
        learner_memory(make_config(num_ranks=4, zero_stage=3, offload=offload), large, on_gpu=True, load=LOAD)
        for offload in ("none", "optimizer", "all")
    )
    state = 12 * large.num_parameters / 4
    assert kept.peak("device") - moved.peak("device") == pytest.approx(state)
    assert moved.peak("host") - kept.peak("host") == pytest.approx(state)
    assert all_moved.peak("device") == pytest.approx(moved.peak("device") - 2 * large.num_parameters / 4)


def test_lora_trains_the_adapters_alone(shape: ModelShape) -> None:
    memory = learner_memory(make_config(zero_stage=2, lora={"rank": 8}), shape, on_gpu=True, load=LOAD)
    adapters = 8 * 4 * ((256 + 256) * 2 + (256 + 128) * 2 + 3 * (256 + 768))
    assert memory.named("Adam's moments") == 8 * adapters
    assert memory.named("weights") == 2 * (shape.num_parameters + adapters)


def test_a_reference_is_a_model_more_and_with_adapters_none(shape: ModelShape) -> None:
    kl = {"coefficient": 0.1}
    whole = learner_memory(make_config(kl=kl), shape, on_gpu=True, load=LOAD)
    adapted = learner_memory(make_config(kl=kl, lora={"rank": 8}), shape, on_gpu=True, load=LOAD)
    assert whole.named("reference model") == 2 * shape.num_parameters
    assert adapted.named("reference model") == 0


def test_checkpointing_keeps_one_hidden_state_per_layer_and_token(shape: ModelShape) -> None:
    plain, saving = (
        activations(shape, Compute(kind="bfloat16", on_gpu=True, checkpointing=on, max_logits=1 << 25), 1000, 800)
        for on in (False, True)
    )
    ends = 3 * 2 * 256 * 1000 + 2 * 256 * 800
    assert saving.layers == 4 * 2 * 256 * 1000 + ends
    assert plain.layers > 5 * saving.layers


def test_logits_of_a_large_vocabulary_are_bounded_by_the_chunk(large: ModelShape) -> None:
    compute = Compute(kind="bfloat16", on_gpu=True, checkpointing=False, max_logits=1 << 25)
    few, many = (activations(large, compute, 8000, tokens).forward for tokens in (200, 8000))
    assert few < many <= 3.5 * 4 * (1 << 25)


def test_the_cache_of_a_sampler_is_what_its_weights_leave(large: ModelShape) -> None:
    config = make_config({"tensor_parallel_size": 2})
    made = sampler_memory(config, large, device_bytes=80e9, mean_completion_tokens=1000)
    assert made.kv_bytes_per_token == 2 * 28 * 2 * 128 * 2  # keys and values, layers, heads per worker, width, bfloat16
    assert made.memory.peak("device") == pytest.approx(0.9 * 80e9)
    assert made.concurrent_full == int(made.kv_cache_bytes / made.kv_bytes_per_token) // 4096
    assert made.fits


def test_a_sampler_without_room_is_told_to_take_more_workers(large: ModelShape) -> None:
    config = make_config()
    made = sampler_memory(config, large, device_bytes=20e9, mean_completion_tokens=1000)
    assert not made.fits
    assert "rollout.tensor_parallel_size=2" in sampler_remedy(config, large, made)[0]


def test_the_remedy_names_a_setting_that_makes_it_fit(large: ModelShape) -> None:
    config = make_config(num_ranks=8, zero_stage=2)
    memory = learner_memory(config, large, on_gpu=True)
    room = 0.92 * 80e9
    words = learner_remedy(config, large, memory, room, 8)
    assert "learner.gradient_checkpointing=true" in words[0] or "learner.max_tokens_per_micro_batch" in words[0]
    assert not learner_remedy(config, large, memory, memory.peak("device"), 8)


def test_what_no_setting_makes_fit_says_so(large: ModelShape) -> None:
    config = make_config(num_ranks=1, zero_stage=3)
    memory = learner_memory(config, large, on_gpu=True)
    assert "no single setting makes it fit" in learner_remedy(config, large, memory, 1e9, 64)[0]


def test_a_remedy_takes_no_more_ranks_than_there_are_gpus_for(large: ModelShape) -> None:
    config = make_config(num_ranks=2, zero_stage=3, gradient_checkpointing=True, max_tokens_per_micro_batch=4096)
    memory = learner_memory(config, large, on_gpu=True)
    room = 0.8 * memory.peak("device")
    assert "learner.num_ranks=4" in learner_remedy(config, large, memory, room, 16)[0]
    few = learner_remedy(config, large, memory, room, 2)[0]
    assert "learner.offload=" in few and "num_ranks" not in few


def test_layers_with_a_window_keep_keys_and_values_too() -> None:
    sliding = make_shape("sliding", "qwen2", SIZES | {"use_sliding_window": True, "max_window_layers": 0})
    assert sliding.kv_layers == SIZES["num_hidden_layers"]
    assert sampler_memory(make_config(), sliding, device_bytes=80e9, mean_completion_tokens=1000).fits


def test_a_sampler_that_shares_its_gpu_has_the_part_that_the_engine_takes_then(large: ModelShape) -> None:
    config = make_config()
    shared = config.model_copy(update={"cluster": config.cluster.model_copy(update={"colocate": True})})
    made = sampler_memory(shared, large, device_bytes=80e9, mean_completion_tokens=1000)
    assert made.limit_bytes == pytest.approx(0.35 * 80e9)
