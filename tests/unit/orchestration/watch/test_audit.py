"""The audit: hand-counted accuracies, one row per closed file, and a process that ends with its driver."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.watch.audit import AuditProcess
from orchestration.watch.auditor import Auditor
from orchestration.watch.jsonl import read_rows
from orchestration.watch.metrics import METRICS, read_metrics
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run

pytestmark = pytest.mark.wall_clock

ROOT = Path(__file__).parents[4]
TRAIN = {0: ["7", "7", "7", "3"], 1: ["1", "1", "8", None], 2: [None, None, None, None]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def audited(path: Path, config: object) -> Auditor:
    auditor = Auditor(path, config)  # type: ignore[arg-type]
    auditor.poll()
    auditor.close()
    return auditor


def test_a_training_step_is_scored_against_the_references(run: Path) -> None:
    config = make_run(run)
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    audited(run, config)
    (row,) = read_rows(run / "audit/labels.jsonl")
    assert (row["step"], row["branch"], row["incarnation"]) == (0, 0, 0)
    assert row["audit/num_references"] == 3
    assert row["audit/label_accuracy"] == 1 / 2
    assert row["audit/reward_accuracy"] == (4 + 1) / 8
    assert row["audit/average_accuracy"] == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    assert row["audit/majority_accuracy"] == pytest.approx(1 / 3)
    assert row["audit/generation_verification_gap"] == pytest.approx(0.0)
    assert row["audit/lucky_hit_share"] == 1 / 4
    shares = [row[name] for name in METRICS if name.startswith("audit/pass_rate_share_")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0, 0])
    assert {name for name in row if "/" in name} <= METRICS.keys()
    assert read_metrics(run)["audit/label_accuracy"].to_pylist() == [0.5]


def test_accuracy_by_agreement_is_written_per_step_and_evaluation(run: Path) -> None:
    config = make_run(run)
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    close_step(run, config, 0, {0: ["7", "7", "7", "7"], 1: ["8", "8", "1", "1"]}, Role.EVAL)
    audited(run, config)
    trained, evaluated = read_rows(run / "audit/thresholds.jsonl")
    assert (trained["role"], trained["step"], trained["num_prompts"]) == ("train", 0, 3)
    places = [trained["threshold"].index(threshold) for threshold in (0.0, 0.5, 0.75, 0.8)]
    assert [trained["kept_share"][place] for place in places] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [trained["majority_accuracy"][place] for place in places] == [pytest.approx(1 / 3), 0.5, 1.0, None]
    assert (evaluated["role"], evaluated["sources"]["sums"]["majority_accuracy"][0]) == ("eval", 0.5)
    rows = [row for row in read_rows(run / "audit/prompts.jsonl") if row["role"] == "train"]
    assert [row["majority_ratio"] for row in rows] == [0.75, 0.5, 0.0]


def test_groups_without_a_reference_are_left_out(run: Path) -> None:
    config = make_run(run, references=["7", None, None])
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    close_step(run, config, 1, {1: ["1", "1"]}, Role.TRAIN)
    audited(run, config)
    first, second = read_rows(run / "audit/labels.jsonl")
    assert first["audit/num_references"] == 1 and first["audit/label_accuracy"] == 1.0
    assert second == {"step": 1, "branch": 0, "incarnation": 0}
    assert [row["step"] for row in read_rows(run / "audit/thresholds.jsonl")] == [0]


def test_prompts_that_turn_wrong_and_right_again_are_marked(run: Path) -> None:
    config = make_run(run)
    for step, answers in [(0, "7"), (2, "1"), (4, "7")]:
        close_step(run, config, step, {0: [answers] * 2, 1: ["8", "8"]}, Role.EVAL)
    audited(run, config)
    rows = read_rows(run / "audit/prompts.jsonl")
    assert [(row["step"], row["change"]) for row in rows if row["group_id"] == 0] == [
        (0, None),
        (2, "lost"),
        (4, "gained"),
    ]
    assert all(row["change"] is None for row in rows if row["group_id"] == 1)
    assert (rows[2]["reference"], rows[2]["answer"], rows[2]["is_correct"]) == ("7", "1", False)
    accuracies = [row["eval/average_accuracy"] for row in read_rows(run / "audit/eval.jsonl")]
    assert accuracies == [1.0, 0.5, 1.0]


def test_a_restarted_audit_scores_only_what_is_new_and_remembers_what_was_right(run: Path) -> None:
    config = make_run(run)
    close_step(run, config, 0, {0: ["7", "7"]}, Role.EVAL)
    audited(run, config)
    close_step(run, config, 2, {0: ["1", "1"]}, Role.EVAL)
    audited(run, config)
    rows = read_rows(run / "audit/eval.jsonl")
    assert [row["step"] for row in rows] == [0, 2]
    assert read_rows(run / "audit/prompts.jsonl")[-1]["change"] == "lost"
    close_step(run, config, 2, {0: ["7", "7"]}, Role.EVAL, incarnation=1)
    audited(run, config)
    assert read_metrics(run)["eval/average_accuracy"].to_pylist() == [1.0, 1.0]


def test_the_audit_writes_under_audit_only(run: Path) -> None:
    config = make_run(run)
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    audited(run, config)
    new = {path for path in run.rglob("*") if path.is_file()} - before.keys()
    assert new and all(path.is_relative_to(run / "audit") for path in new)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_the_drivers_handle_brings_no_reference_reader_into_the_driver() -> None:
    code = "import sys; import orchestration.watch.audit; assert 'data.references' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


@pytest.fixture
def process(run: Path) -> Iterator[tuple[AuditProcess, Path]]:
    make_run(run)
    audit = AuditProcess.start(run)
    yield audit, run
    audit.stop(timeout=0.1)


def test_the_process_scores_files_as_they_close_and_ends_when_told(process: tuple[AuditProcess, Path]) -> None:
    audit, run = process
    config = make_run(run)
    close_step(run, config, 0, {0: ["7", "7"], 1: ["8", "3"]}, Role.EVAL)
    values = audit.wait_for(0, Role.EVAL, timeout=60)
    assert values is not None and values["eval/average_accuracy"] == 0.75
    row = audit.wait_for_row(0, Role.EVAL, timeout=60)
    assert row is not None and row["sources"]["sums"]["num_prompts"] == 2
    assert audit.wait_for(5, Role.EVAL, timeout=0.1) is None
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    assert audit.stop(timeout=60)
    labels = audit.wait_for(0, Role.TRAIN, timeout=0)
    assert labels is not None and labels["audit/label_accuracy"] == 0.5
    assert audit.failure is None


def test_an_audit_that_cannot_read_its_data_says_why_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    (tmp_path / "sums.jsonl").unlink()
    audit = AuditProcess.start(run)
    assert audit.wait_for(0, Role.TRAIN, timeout=60) is None
    assert audit.failure is not None and "sums.jsonl" in audit.failure and "code 3" in audit.failure
    assert not audit.stop(timeout=5)


def test_the_audit_ends_when_its_driver_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    code = (
        "import sys, time; from orchestration.watch.audit import AuditProcess\n"
        "audit = AuditProcess.start(sys.argv[1]); print(audit.pid, flush=True); time.sleep(60)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=10)
    deadline = time.monotonic() + 30
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(pid)
    driver.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_command_scores_a_finished_run_once_and_ends(run: Path) -> None:
    config = make_run(run)
    close_step(run, config, 0, TRAIN, Role.TRAIN)
    command = [sys.executable, "-m", "orchestration.watch.audit", str(run)]
    subprocess.run(command, check=True, timeout=60, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert len(read_rows(run / "audit/labels.jsonl")) == 1
    wrong = subprocess.run([*command, "--folow"], timeout=60, cwd=ROOT, capture_output=True, check=False)
    assert wrong.returncode == 2 and b"usage" in wrong.stderr
