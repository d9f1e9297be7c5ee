"""A prepared set through labelling, an easiest third, and a run on the real stack: ids hold, references stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.prepare.subset import id_of
from data.prepare.write import read_prepared
from orchestration.group_table import read_groups
from orchestration.watch.metrics import read_metrics
from quorum.types import Role
from tests.integration.demo_data import demo_rows
from tests.integration.run_helpers import quorum

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900), pytest.mark.all]

PROMPTS, K = 24, 8


def done(*words: str) -> str:
    finished = quorum(*words)
    assert finished.code == 0, finished.output[-3000:]
    return finished.output


def test_a_set_is_labelled_cut_to_its_easiest_third_and_trained_on(tmp_path: Path) -> None:
    rows = demo_rows(seed=5, size=PROMPTS)
    local = tmp_path / "local.jsonl"
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, labels = tmp_path / "dapo.parquet", tmp_path / "labels"
    done("data", "prepare", "dapo", "--from", str(local), "--out", str(tmp_path))
    done("label", "data/demo/base", str(whole), "--n", str(K), "--preset", "demo", "--out", str(labels))

    table = {row["prompt_id"]: row for row in pq.read_table(labels / "labels.parquet").to_pylist()}
    rates = {row["prompt_id"]: row for row in pq.read_table(labels / "audit" / "pass_rates.parquet").to_pylist()}
    ours = read_prepared(whole)
    assert set(table) == set(rates) == {id_of(ours, one) for one in ours.examples}
    assert "pass_rate" not in next(iter(table.values()))
    for group in read_groups(labels, role=Role.LABEL).to_pylist():
        answer = next(one.answer for one in ours.examples if id_of(ours, one) == group["prompt_id"])
        assert rates[group["prompt_id"]]["num_correct"] == sum(given == answer for given in group["answers"])

    easy = tmp_path / "easy.parquet"
    given = ["--by", "agreement", "--table", str(labels / "labels.parquet"), "--easiest", "1/3"]
    done("data", "subset", str(whole), "--out", str(easy), *given)
    chosen = {id_of(ours, one) for one in read_prepared(easy).examples}
    agreement = {prompt_id: row["agreement"] for prompt_id, row in table.items()}
    rest = [agreement[prompt_id] for prompt_id in table if prompt_id not in chosen]
    assert len(chosen) == PROMPTS // 3 and min(agreement[prompt_id] for prompt_id in chosen) >= max(rest)

    options = f"{{name: table, options: {{path: {labels / 'labels.parquet'}, missing: drop}}}}"
    done(
        "train", "demo", f"run.dir={tmp_path / 'run'}", "run.num_steps=1", f"data.train=[{{path: {easy}}}]",
        "rollout.prompts_per_step=8", f"rollout.completions_per_prompt={K}", "rollout.num_samplers=1",
        f"evaluation.data=[{{path: {whole}}}]", "evaluation.completions_per_prompt=2", f"voting.labels={options}",
    )  # fmt: skip
    groups = read_groups(tmp_path / "run", role=Role.TRAIN).to_pylist()
    assert {group["prompt_id"] for group in groups} <= chosen
    for group in groups:
        if group["pseudo_label"] is not None:
            assert group["provenance"] == "table" and group["pseudo_label"] == table[group["prompt_id"]]["label"]
    first = read_metrics(tmp_path / "run").to_pylist()[0]
    assert first["eval/num_prompts"] == PROMPTS and first["audit/label_accuracy"] is not None
