"""Pass rates of labelled prompts: right counts, in a file apart, and only where there are references."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from data.prepare.subset import read_figures
from orchestration.watch.pass_rates import write_pass_rates
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run, prompt_id

ANSWERS = {0: ["7", "7", "3", None], 1: ["1", "1", "8", "1"], 2: ["9", "9", "9", "9"]}


def test_each_prompt_has_the_share_of_its_completions_that_are_right(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", ("7", "8", None))
    close_step(tmp_path / "run", config, 0, {0: ANSWERS[0]}, Role.LABEL)
    close_step(tmp_path / "run", config, 1, {1: ANSWERS[1], 2: ANSWERS[2]}, Role.LABEL)
    written = write_pass_rates(tmp_path / "run", config)
    assert written == (tmp_path / "run" / "audit" / "pass_rates.parquet", 2)
    rows = {row["prompt_id"]: row for row in pq.read_table(written[0]).to_pylist()}
    first, second = rows[prompt_id(config, 0)], rows[prompt_id(config, 1)]
    assert (first["pass_rate"], first["num_completions"], first["is_label_correct"]) == (0.5, 4, True)
    assert (second["pass_rate"], second["num_correct"], second["is_label_correct"]) == (0.25, 1, False)
    assert read_figures(written[0], "pass_rate") == {prompt_id(config, 0): 0.5, prompt_id(config, 1): 0.25}


def test_a_group_that_elected_nobody_has_a_pass_rate_and_no_verdict_on_a_label(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", ("7",))
    close_step(tmp_path / "run", config, 0, {0: [None, None]}, Role.LABEL)
    written = write_pass_rates(tmp_path / "run", config)
    assert written is not None
    [row] = pq.read_table(written[0]).to_pylist()
    assert (row["pass_rate"], row["is_label_correct"]) == (0.0, None)


def test_without_references_nothing_is_written(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", (None, None, None))
    close_step(tmp_path / "run", config, 0, ANSWERS, Role.LABEL)
    assert write_pass_rates(tmp_path / "run", config) is None
    assert not (tmp_path / "run" / "audit").exists()


def test_other_references_change_the_rates_and_no_group(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", ("7", "8", "9"))
    path = close_step(tmp_path / "run", config, 0, ANSWERS, Role.LABEL)
    before = path.read_bytes()
    write_pass_rates(tmp_path / "run", config)
    data = tmp_path / "sums.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(line | {"answer": "wrong"}) + "\n" for line in lines))
    written = write_pass_rates(tmp_path / "run", config)
    assert written is not None and path.read_bytes() == before
    assert pq.read_table(written[0])["pass_rate"].to_pylist() == [0.0, 0.0, 0.0]
