"""`quorum vote`: three rules on a small run, with and without references, and one line for whatever is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer

from orchestration.cli.main import load_command, run
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run
from voting.rules import VOTE_RULES

ROOT = Path(__file__).parents[4]
RULES = ["majority", "majority,min_agreement=0.6", "soft"]
HEAVY = ("ray", "vllm", "torch", "deepspeed", "transformers", "datasets", "psutil")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of two steps: right by 3 of 4; wrong by 2 of 4 with one abstention; a tie."""
    folder = tmp_path / "run"
    config = make_run(folder, references=["7", "8", "9"])
    close_step(folder, config, 0, {0: ["7", "7", "7", "3"], 1: ["1", "1", "8", None]}, Role.TRAIN)
    close_step(folder, config, 1, {2: ["9", "9", "4", "4"]}, Role.TRAIN)
    return folder


def called(*words: str | Path) -> int:
    with pytest.raises((SystemExit, typer.Exit)) as caught:
        run(["vote", *map(str, words)])
    return getattr(caught.value, "exit_code", getattr(caught.value, "code", None))


def with_rules(rules: list[str]) -> list[str]:
    return [word for rule in rules for word in ("--rule", rule)]


def result(text: str) -> dict[str, Any]:
    last = text.strip().splitlines()[-1]
    assert last.startswith("RESULT ")
    return json.loads(last.removeprefix("RESULT "))


def cells(text: str, rule: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.split()[:1] == [rule]]
    return line.split()[1:-1]


def test_three_rules_stand_side_by_side_with_hand_computed_figures(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(finished, *with_rules(RULES)) == 0
    text = capsys.readouterr().out
    assert "3 groups of 4 completions" in text and "extractor=last_number" in text
    assert "3 prompts have a reference answer" in text
    header = ["groups", "labelled", "kept", "agreement", "label acc.", "reward acc.", "abstained", "answers", "seconds"]
    assert [re.search(rf"^rule .*{re.escape(title)}", text, re.MULTILINE) is not None for title in header] == [True] * 9
    assert cells(text, RULES[0]) == ["3", "66.7%", "66.7%", "0.417", "50.0%", "62.5%", "8.3%", "2.00"]
    assert cells(text, RULES[1]) == ["3", "33.3%", "33.3%", "0.417", "100.0%", "100.0%", "8.3%", "2.00"]
    assert cells(text, RULES[2]) == ["3", "66.7%", "100.0%", "0.583", "50.0%", "58.3%", "8.3%", "2.00"]
    fields = result(text)
    assert (fields["bench"], fields["num_groups"], fields["num_references"]) == ("vote", 3, 3)
    assert list(fields["rules"]) == RULES
    assert fields["rules"]["soft"]["reward_accuracy"] == 0.5833
    assert fields["rules"]["majority"]["seconds"] < 30


def test_without_references_the_accuracies_are_dashes_and_the_votes_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(finished, *with_rules(RULES), "--out", tmp_path / "with.parquet") == 0
    with_references = capsys.readouterr().out
    (tmp_path / "sums.jsonl").unlink()
    assert called(finished, *with_rules(RULES), "--out", tmp_path / "without.parquet") == 0
    text = capsys.readouterr().out
    assert re.search(r"no references: .*sums\.jsonl", text)
    for rule in RULES:
        before, after = cells(with_references, rule), cells(text, rule)
        assert after[4:6] == ["-", "-"] and after[:4] + after[6:] == before[:4] + before[6:]
    assert result(text)["rules"]["majority"]["label_accuracy"] is None
    votes = pq.read_table(tmp_path / "with.parquet")
    assert votes.equals(pq.read_table(tmp_path / "without.parquet"))
    assert len(votes) == 9
    assert votes.to_pylist()[2]["end_state"] == "dropped:no_label"
    assert not list(tmp_path.glob(".*tmp"))


def test_with_every_reference_corrupted_the_votes_are_the_same(finished: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    outs = []
    for answer in ("7", "wrong"):
        rows = pq.read_table(next((finished / "groups").glob("step-000000*"))).column("prompt_id").to_pylist()
        answers.write_text("".join(json.dumps({"prompt_id": row, "answer": answer}) + "\n" for row in rows))
        outs.append(tmp_path / f"{answer}.parquet")
        assert called(finished, *with_rules(RULES), "--answers", answers, "--out", outs[-1]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_table_is_voted_on_with_its_answers_and_the_run_s_rule_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt_id": "a", "completions": ["so 1/2", "0.5", "0.5", "3"], "answer": "1/2"},
        {"prompt_id": "b", "completions": ["8", "8", "8", "8"], "answer": "8"},
    ]
    table = tmp_path / "samples.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rule = "majority,extractor=last_number"
    assert called(table, "--rule", rule) == 0
    text = capsys.readouterr().out
    assert "2 prompts have a reference answer; accuracies by equivalence exact" in text
    assert cells(text, rule)[4] == "50.0%"
    assert called(table, "--rule", rule, "--grader", "math_verify") == 0
    assert cells(capsys.readouterr().out, rule)[4] == "100.0%"
    assert called(table) == 0
    text = capsys.readouterr().out
    assert cells(text, "majority")[:2] == ["2", "0.0%"] and cells(text, "majority")[6] == "100.0%"


def test_a_rule_of_one_s_own_is_taken_from_a_module(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rule_of_mine.py").write_text(
        "from voting import VOTE_RULES, Entry, VoteRule\n"
        "from voting.rules import pay_members\n"
        "VOTE_RULES['mine'] = Entry(VoteRule(pay_members))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert called(finished, "--rule", "mine", "--plugin", "rule_of_mine") == 0
        assert cells(capsys.readouterr().out, "mine")[:2] == ["3", "66.7%"]
        assert called(finished, "--plugin", "rule_of_min") == 2
        assert "'rule_of_min' cannot be imported" in capsys.readouterr().err
    finally:
        VOTE_RULES.pop("mine", None)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["no_such_run"], 3, "no such file or run"),
        (["RUN", "--rule", "majorty"], 2, "--rule majorty: no plug-in is called 'majorty'; did you mean 'majority'?"),
        (["RUN", "--rule", "majority,min_agrement=1"], 2, "did you mean min_agreement?"),
        (["RUN", "--answers", "nowhere.jsonl"], 3, "--answers nowhere.jsonl: no such file"),
        (["RUN", "--grader", "exactt"], 2, "did you mean 'exact'?"),
        (["RUN", "--out", "no/such/folder/votes.parquet"], 2, "want a file in a directory that exists"),
        (["RUN", "RUN"], 3, "is a directory: give one run, or files"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_voted_on(
    finished: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*[str(finished) if word == "RUN" else word for word in words]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""


def test_answers_that_fit_no_prompt_are_an_error(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "other.jsonl"
    answers.write_text('{"prompt_id": "x", "answer": "7"}\n')
    assert called(finished, "--answers", answers) == 3
    assert "none of its 1 answers belongs to a prompt" in capsys.readouterr().err


def test_help_names_every_rule_and_has_examples() -> None:
    text = load_command("vote").help
    assert all(re.search(rf"\b{name}\b", text) for name in VOTE_RULES)
    assert text.count("quorum vote ") >= 5 and "min_agreement=0.5" in text


def test_it_needs_the_base_install_alone(finished: Path) -> None:
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {HEAVY!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
from orchestration.cli.main import run
run(["vote", {str(finished)!r}, "--rule", "majority,equivalence=math_verify", "--rule", "soft"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(done.stdout)["num_references"] == 3


@pytest.mark.parametrize("out", ["rows.jsonl", "answers.jsonl"])
def test_what_is_read_is_never_written_over(tmp_path: Path, out: str) -> None:
    rows, answers = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows.write_text('{"prompt_id": "a", "completions": ["\\\\boxed{1}", "\\\\boxed{1}"]}\n')
    answers.write_text('{"prompt_id": "a", "answer": "1"}\n')
    before = (rows.read_text(), answers.read_text())
    with pytest.raises(SystemExit) as ended:
        run(["vote", str(rows), "--answers", str(answers), "--out", str(tmp_path / out)])
    assert ended.value.code == 2
    assert (rows.read_text(), answers.read_text()) == before
