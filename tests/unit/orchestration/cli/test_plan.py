"""`quorum plan` from a configuration and a config.json: no weights, no tokenizer, no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli.main import app
from orchestration.cli.plan import plan
from orchestration.planning.rates import read_rates
from orchestration.planning.table import duration, size
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
    return defaults | more | {"seed": None} | changes


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


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["srt", "--fit", "x"], "--fit: only with `quorum plan --scale-study`"),
        (["srt", "--seed", "1"], "--seed: only with `quorum plan --check`"),
        (["--check", "--gpus", "8"], "`quorum plan --check` does not take --gpus; it takes --seed"),
        (["srt", "--scale-study", "--json"], "does not take --json, CONFIG; it takes --fit"),
    ],
)
def test_options_of_another_mode_are_refused_by_name(words: list[str], wanted: str) -> None:
    done = CliRunner().invoke(app, ["plan", *words])
    assert done.exit_code == 2 and wanted in done.output, done.output


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity"])
@pytest.mark.parametrize("field", ["sampler_tokens_per_second", "mean_completion_tokens", "sync_seconds"])
def test_rates_that_are_no_rates_are_refused_by_name(tmp_path: Path, field: str, value: str) -> None:
    good = {"sampler_tokens_per_second": 1, "learner_tokens_per_second": 1, "mean_completion_tokens": 1}
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({**good, field: "HERE"}).replace('"HERE"', value))
    if (field, value) == ("sync_seconds", "0"):
        assert read_rates(str(path)).sync_seconds == 0
        return
    with pytest.raises(ConfigError, match=f"{field}: got .*must be a number"):
        read_rates(str(path))


def test_small_models_and_short_steps_are_shown_in_smaller_units() -> None:
    assert (size(2.5e6), size(2.5e9), size(0)) == ("2.50 MB", "2.50 GB", "0.00 GB")
    assert (duration(0.0042), duration(4.2), duration(0.00042, 2)) == ("4.2ms", "4.2s", "0.42ms")
