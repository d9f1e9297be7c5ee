"""What is known of prompts, brought together for the vote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.schema import RunConfig, VotingSection
from orchestration.label_model import write_labels
from orchestration.prompt_pasts import label_memory, load_base_agreements, pasts_of
from orchestration.watch.label_history import LabelHistory
from quorum.errors import DataError
from quorum.types import prompt_id_of
from tests.builders import make_prompt
from voting.context import PromptPast


def config_of(**prompts: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused.jsonl"}]},
            "voting": {"prompts": prompts},
        }
    )


def test_nothing_is_remembered_or_known_unless_the_vote_asks_for_it() -> None:
    history = LabelHistory()
    history.visit("p", (), "7")
    assert label_memory(VotingSection()) == 0
    assert pasts_of(["p"], VotingSection(), history, {"p": 0.5}) == ()
    assert load_base_agreements(config_of()) == {}


def test_a_past_is_the_history_with_the_tables_agreement() -> None:
    section = config_of(flips={"window": 10}).voting
    assert label_memory(section) == 30
    history = LabelHistory(label_memory(section))
    for label, agreement in (("7", 0.5), ("8", 0.75)):
        history.visit("p", (), label, agreement)
    assert pasts_of(["p", "q"], section, history, {"q": 0.25}) == (
        PromptPast("8", (True,), (0.5, 0.75)),
        PromptPast(base_agreement=0.25),
    )


def test_a_table_is_read_by_prompt_id_and_one_of_other_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    known = prompt_id_of("unit", "0")
    rows: list[dict[str, Any]] = [
        {"prompt_id": known, "label": "7", "agreement": 0.5},
        {"prompt_id": "f" * 32, "label": None, "agreement": 0.0},
    ]
    write_labels(path, rows, {})
    config = config_of(table=str(path))
    assert load_base_agreements(config, [make_prompt(0)]) == {known: 0.5, "f" * 32: 0.0}
    with pytest.raises(DataError, match="has no training prompt; make it with `quorum label`"):
        load_base_agreements(config, [make_prompt(1)])
    with pytest.raises(DataError, match="cannot be read as a Parquet table of labels"):
        load_base_agreements(config_of(table=str(tmp_path / "none.parquet")))
