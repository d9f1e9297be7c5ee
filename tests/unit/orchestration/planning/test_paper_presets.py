"""Every preset of the papers fits 8 GPUs by `quorum plan`'s arithmetic; no GPU, no weights, no network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from configs.load import preset_names
from orchestration.labels import teacher_of
from orchestration.plan import make_plan
from orchestration.planning.devices import find_device
from orchestration.planning.estimate import Hardware, make_estimate
from orchestration.planning.shape import ModelShape, make_shape
from orchestration.registries import load_run_config

PRESETS = [name for name in preset_names() if name.startswith("paper/")]


def sizes(hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocabulary: int, **more: Any) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


MODELS: Mapping[str, tuple[str, dict]] = {
    "Qwen/Qwen2.5-Math-7B": ("qwen2", sizes(3584, 18944, 28, 28, 4, 152064)),
    "Qwen/Qwen2.5-Math-1.5B": ("qwen2", sizes(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True)),
    "Qwen/Qwen2.5-32B": ("qwen2", sizes(5120, 27648, 64, 40, 8, 152064)),
    "Qwen/Qwen3-14B-Base": ("qwen3", sizes(5120, 17408, 40, 40, 8, 151936, head_dim=128)),
    "Qwen/Qwen3-8B": ("qwen3", sizes(4096, 12288, 36, 32, 8, 151936, head_dim=128)),
    "Qwen/Qwen3-4B-Base": ("qwen3", sizes(2560, 9728, 36, 32, 8, 151936, head_dim=128, tie_word_embeddings=True)),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", sizes(4096, 14336, 32, 32, 8, 128256)),
    "deepseek-ai/deepseek-math-7b-instruct": ("llama", sizes(4096, 11008, 30, 32, 32, 102400)),
}
BILLIONS = {
    "Qwen/Qwen2.5-Math-7B": 7.6,
    "Qwen/Qwen2.5-Math-1.5B": 1.5,
    "Qwen/Qwen2.5-32B": 32.8,
    "Qwen/Qwen3-14B-Base": 14.8,
    "Qwen/Qwen3-8B": 8.2,
    "Qwen/Qwen3-4B-Base": 4.0,
    "meta-llama/Llama-3.1-8B-Instruct": 8.0,
    "deepseek-ai/deepseek-math-7b-instruct": 6.9,
}


@cache
def shape_of(model: str) -> ModelShape:
    """Of a hub name, or of a checkpoint of the Reasoning Gym runs, which all began with Qwen3-4B-Base."""
    name = "Qwen/Qwen3-4B-Base" if model.startswith("runs/paper/rg-") else model
    return make_shape(name, *MODELS[name])


@pytest.mark.parametrize("model", MODELS)
def test_the_shapes_are_those_of_the_models_by_their_size(model: str) -> None:
    pytest.importorskip("transformers")
    assert shape_of(model).num_parameters / 1e9 == pytest.approx(BILLIONS[model], abs=0.06)


@pytest.mark.parametrize("name", PRESETS)
def test_a_paper_preset_fits_one_node_of_eight_gpus(name: str) -> None:
    pytest.importorskip("transformers")
    config = load_run_config(name)
    device = find_device("h200")
    hardware = Hardware(gpus=8, gpu_bytes=1e9 * device.memory_gb, gpus_per_node=8, device=device)
    made = make_estimate(config, shape_of(config.model.path), hardware)
    assert made.problems == ()
    teacher = teacher_of(config)
    with_learner = config.run.mode != "rollout_only"
    plan = make_plan(
        config,
        with_learner=with_learner,
        cluster={"CPU": 128, "GPU": 8},
        num_teachers=teacher.num_samplers if teacher else 0,
    )
    assert plan.total_gpus <= 8
    assert plan.total_gpus == 8 or not with_learner


def test_presets_are_told_apart_by_their_run_directories() -> None:
    folders = [load_run_config(name).run.dir for name in PRESETS]
    assert folders == [f"runs/{name}" for name in PRESETS]
