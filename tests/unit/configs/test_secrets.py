"""Secrets are refused by field, and never repeated."""

import pytest

from configs.secrets import refuse_secrets, secrets_of
from quorum.errors import ConfigError

PLANTED = "s3cr3t-of-this-test-0123456789"


@pytest.mark.parametrize(
    "value",
    [
        "hf_" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "sk-" + "a1B2" * 8,
        "https://me:pass@mlflow.example/api",
        f"run-{PLANTED}",
    ],
)
def test_a_secret_is_refused_by_the_name_of_its_field_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_secrets({"report": {"sinks": [{"options": {"uri": value}}]}}, {"WANDB_API_KEY": PLANTED})
    assert "report.sinks.0.options.uri" in str(caught.value) and "environment" in str(caught.value)
    assert value not in str(caught.value) and PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("QUORUM_TOKEN_DIR", "/shared/me", "/shared/me/runs/a"),
        ("JUPYTER_PASSWORD", "workspace", "/workspace/runs/a"),
        ("POSTGRES_PASSWORD", "postgres", "postgresql://db/mlflow"),
        ("TOKEN_BUDGET", "10000000000000000000", "10000000000000000000"),
        ("SECRET_STORE", "/run/secrets/of-1234567890", "/run/secrets/of-1234567890/x"),
        ("NOTHING", "", "runs/sk-learn-comparison-long-name-2026"),
    ],
)
def test_words_paths_and_numbers_of_the_environment_refuse_no_ordinary_configuration(
    name: str, value: str, text: str
) -> None:
    refuse_secrets({"run": {"dir": text}}, {name: value})


def test_paths_names_and_plain_urls_are_no_secrets() -> None:
    values = {"model": {"path": "/models/sk-learn/Qwen2.5-7B"}, "uri": "http://mlflow:5000", "list": ["a=b", "x@y"]}
    refuse_secrets(values, {"HF_TOKEN": PLANTED, "RAY_AUTH_TOKEN_PATH": "/models", "API_KEY": "short"})
    assert secrets_of({"HF_TOKEN": PLANTED, "RAY_AUTH_TOKEN_PATH": "/models/x", "PATH": "/usr/bin:/bin"}) == {
        "HF_TOKEN": PLANTED
    }
