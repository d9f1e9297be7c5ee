"""What is said of keys that the schema does not have."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.load import load_config
from configs.problems import ELSEWHERE, describe, field_names
from quorum.errors import ConfigError


def said_of(override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    return str(caught.value)


def test_other_trainers_names_lead_to_fields_that_exist() -> None:
    assert set(ELSEWHERE.values()) <= set(field_names())


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learner.lr", "learner.learning_rate"),
        ("rollout.n", "rollout.completions_per_prompt"),
        ("num_generations", "rollout.completions_per_prompt"),
        ("learner.beta", "learner.kl.coefficient"),
        ("run.learning_rat", "learner.learning_rate"),
        ("checkpoint.save_freq", "checkpoint.every_steps"),
        ("learner.zero_stag", "learner.zero_stage"),
    ],
)
def test_an_unknown_key_names_the_field_that_was_meant(key: str, meant: str) -> None:
    assert f"{key}: unknown key; did you mean {meant}?" in said_of(f"{key}=1")


def test_a_key_far_from_all_lists_what_there_is() -> None:
    assert "did you mean" not in (said := said_of("sync.qqqq=1")) and "known: backend" in said


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    window: int = 1


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    flips: Inner = Inner()


def test_a_section_inside_of_options_is_searched_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"flips": {"windw": 2}})
    (line,) = describe(caught.value, prefix=("voting", "rule", "options"), root=Options)
    assert line == "voting.rule.options.flips.windw: unknown key; did you mean voting.rule.options.flips.window?"
