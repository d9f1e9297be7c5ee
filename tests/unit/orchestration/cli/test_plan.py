"""`quorum plan` from a configuration and a config.json: no weights, no tokenizer, no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.cli.plan import plan
from quorum.errors import ConfigError

MODEL = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
PARAMETERS = 1_543_714_304
"""Of Qwen2.5-1.5B."""


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    return [f"model.path={tmp_path}", "learner.zero_stage=2"]


def options(**changes: object) -> dict[str, object]:
    defaults = {"gpus": 8, "gpu_memory": 80.0, "gpus_per_node": 8, "device_name": "h100", "rates": None}
    more = {"mean_tokens": None, "price": 2.0, "as_json": True, "check": False, "scale_study": False, "fit": None}
    return defaults | more | {"seed": 0} | changes


def test_it_says_what_a_run_takes_and_which_split_is_fastest(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan("srt", overrides, **options())
    made = json.loads(capsys.readouterr().out)
    assert made["num_parameters"] == PARAMETERS
    assert made["problems"] == []
    best = made["recommended"]
    assert best["seconds"] <= made["configured"]["seconds"]
    assert best["num_samplers"] * 2 + best["num_ranks"] <= 8
    assert best["cost"] == pytest.approx(2.0 * 8 * best["seconds"] / 3600)
    assert "estimated" in made["rates"]["source"]


def test_its_table_names_the_setting_that_makes_it_fit(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*overrides, "learner.gradient_checkpointing=false", "learner.max_tokens_per_micro_batch=65536"]
    plan("srt", changed, **options(as_json=False))
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    assert "set learner.max_tokens_per_micro_batch=" in printed


def test_given_rates_replace_the_estimates(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rates.json"
    path.write_text(
        '{"sampler_tokens_per_second": 1000, "learner_tokens_per_second": 500, "mean_completion_tokens": 100}'
    )
    plan("srt", overrides, **options(rates=str(path)))
    made = json.loads(capsys.readouterr().out)
    assert made["configured"]["rollout_seconds"] == pytest.approx(16 * 32 * 100 / (2 * 1000))
    assert made["rates"]["source"] == str(path)


def test_an_unknown_device_and_nothing_to_plan_are_errors(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="h200"):
        plan("srt", overrides, **options(device_name="tpu"))
    with pytest.raises(ConfigError, match="nothing to plan"):
        plan(None, [], **options())
