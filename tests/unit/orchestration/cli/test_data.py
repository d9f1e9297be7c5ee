"""`quorum data` end to end on local files, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.prepare.write import read_prepared
from orchestration.cli.main import run
from tests.unit.data.sample_data import write_jsonl


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run(["data", *words])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


@pytest.fixture
def dapo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    rows = [{"prompt": f"question {i % 4}", "answer": str(i % 4)} for i in range(5)]
    local = write_jsonl(tmp_path / "local.jsonl", rows)
    code, printed, _ = call(capsys, "prepare", "dapo", "--from", str(local), "--out", str(tmp_path))
    assert code == 0 and "5 prompts, 5 references apart" in printed and "17,398" in printed
    return tmp_path / "dapo.parquet"


def test_list_names_every_set_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = call(capsys, "list")
    assert code == 0 and "17,398" in printed and "ftajwar/deduplicated_dapo_dataset" in printed
    assert "rg_bitwise_3_eval" in printed


def test_report_counts_writes_json_and_drops(dapo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = dapo.with_name("clean.parquet")
    code, printed, _ = call(capsys, "report", str(dapo), "--drop", str(clean), "--kinds", "exact")
    assert code == 0 and "inside the set: 1 exact" in printed
    assert json.loads(dapo.with_suffix(".overlap.json").read_text())["num_dropped"] == 1
    assert len(read_prepared(clean).examples) == 4
    assert call(capsys, "report", str(dapo), "--kinds", "fuzzy")[0] == 2


def test_subset_says_how_many_labels_are_wrong(dapo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dapo.with_name("noisy.parquet")
    code, printed, _ = call(capsys, "subset", str(dapo), "--out", str(out), "--noise", "1")
    assert code == 0 and "5 labels, 5 of them wrong on purpose" in printed


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("prepare", "dappo"), 3, "did you mean dapo?"),
        (("prepare", "dapo", "math12k", "--revision", "x"), 2, "name one"),
        (("prepare", "dapo", "--columns", "prompt"), 2, "ROLE=COLUMN"),
        (("prepare", "rg_bitwise_2", "--from", "x.csv"), 3, "is generated"),
        (("subset", "a.parquet", "--out", "b.parquet", "--easiest", "some"), 2, "1/3"),
        (("subset", "a.parquet", "--out", "b.parquet", "--values", "1"), 2, "A..B"),
        (("report", "a.parquet"), 3, "no such file"),
    ],
)
def test_mistakes_are_one_line_with_the_code_of_their_class(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, _, err = call(capsys, *words)
    assert ended == code and message in err and err.count("\n") == 1
