"""docs/coming-from.md: every setting of ours that it names exists; TRL's names are fields of its configuration."""

from __future__ import annotations

import re

import pytest

from tests.unit.docs.pages import is_setting, read_page

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in read_page("coming-from.md").splitlines()
    if line.startswith("| ")
]


def test_a_name_that_is_no_setting_is_found() -> None:
    assert is_setting("learner.kl.place") and not is_setting("learner.kl.plaice") and not is_setting("lerner")


def test_every_setting_of_ours_in_the_table_exists() -> None:
    ours = [name for row in ROWS[1:] for name in re.findall(r"`([a-z_.]+\.[a-z_.]+)`", row[-1])]
    assert len(ours) > 35
    assert [name for name in ours if not is_setting(name)] == []


def test_trl_s_names_are_fields_of_its_configuration() -> None:
    trl = pytest.importorskip("trl")
    fields = set(trl.GRPOConfig.__dataclass_fields__) | {
        "model",
        "train_dataset",
        "eval_dataset",
        "reward_funcs",
        "peft_config",
    }
    named = [name for row in ROWS[1:] for name in re.findall(r"`([a-z_]+)(?:=[^`]*)?`", row[3])]
    assert len(named) > 20
    assert [name for name in named if name not in fields] == []
