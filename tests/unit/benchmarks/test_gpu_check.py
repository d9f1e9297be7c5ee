"""The stage runner of `make gpu-check`, with stages that are small programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu_check.gpu_tests import counts
from benchmarks.gpu_check.results import Place, ResultFile, code_hash
from benchmarks.gpu_check.runner import Settings, last_figures, run_stages, table
from benchmarks.gpu_check.stages import LIMIT_SECONDS, STAGES, Bound, Stage
from quorum.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
RUNNER = """
import sys
from pathlib import Path
from benchmarks.gpu_check.children import adopt_orphans
from benchmarks.gpu_check.results import Place, ResultFile
from benchmarks.gpu_check.runner import Settings, run_stages
from benchmarks.gpu_check.stages import Bound, Stage

adopt_orphans()
here = Path(sys.argv[1])
place = Place("one machine", ({{"name": "GPU", "driver": "1", "memory": "81559 MiB"}},), {{}}, "abc", "cuda", False)
stages = [{stages}]
sys.exit(run_stages(stages, place, ResultFile(here / "result.json"), Settings(here / "logs"{settings})))
"""
FAKE = """
import json, os, pathlib, subprocess, sys, time
here, what = pathlib.Path({here!r}), sys.argv[1]
with open(here / "ran", "a") as file:
    file.write(what + "\\n")
if what == "hang":
    away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    near = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (here / "pids.new").write_text(f"{{os.getpid()}} {{away.pid}} {{near.pid}}")
    os.replace(here / "pids.new", here / "pids")
    time.sleep(600)
if what == "fail":
    sys.exit("out of luck")
print("RESULT " + json.dumps({{"bench": what, "speed": 2.0 if what == "fast" else 0.5}}))
"""
WAIT_SECONDS = 30


def check(here: Path, *stages: str, settings: str = "") -> list[str]:
    """Command of a runner over fake stages; a name may be followed by a limit in seconds."""
    (here / "fake_stage.py").write_text(FAKE.format(here=str(here)))
    made = []
    for stage in stages:
        name, _, limit = stage.partition(" ")
        bound = '(Bound("speed", at_least=1.0),)'
        made.append(f'Stage("{name}", "about", "fake_stage", ("{name}",), {bound}, {limit or 60}.0, usual_seconds=1.0)')
    (here / "runner.py").write_text(RUNNER.format(stages=", ".join(made), settings=settings))
    return [sys.executable, str(here / "runner.py"), str(here)]


def run(here: Path, *stages: str, settings: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        check(here, *stages, settings=settings), capture_output=True, text=True, timeout=120, env=environment(here)
    )


def environment(here: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{here}"}


def entries(here: Path) -> dict[str, dict[str, object]]:
    return json.loads((here / "result.json").read_text())["stages"]


def ran(here: Path) -> list[str]:
    return (here / "ran").read_text().split()


def await_file(path: Path) -> str:
    end = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


def await_gone(pids: list[int]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while left := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.02)


def test_a_met_bound_ends_with_zero_and_a_missed_one_with_five(tmp_path: Path) -> None:
    assert run(tmp_path, "fast").returncode == 0
    done = run(tmp_path, "fast", "slow")
    assert done.returncode == 5
    assert entries(tmp_path)["slow"]["bounds"] == [{"bound": "speed >= 1", "met": False}]
    assert entries(tmp_path)["fast"]["figures"] == {"speed": 2.0}
    assert "missed" in done.stdout and "speed >= 1: 0.500" in done.stdout


def test_a_runner_killed_in_a_stage_takes_the_stage_along_and_the_next_one_skips_what_ended(tmp_path: Path) -> None:
    first = subprocess.Popen(check(tmp_path, "fast", "hang"), env=environment(tmp_path), stdout=subprocess.DEVNULL)
    stage, _, _ = map(int, await_file(tmp_path / "pids").split())
    first.send_signal(signal.SIGKILL)
    first.wait(WAIT_SECONDS)
    others = [int(pid) for pid in (tmp_path / "pids").read_text().split()[1:]]
    try:
        await_gone([stage])
        assert list(entries(tmp_path)) == ["fast"]
        assert run(tmp_path, "fast", "slow").returncode == 5
        assert ran(tmp_path) == ["fast", "hang", "slow"]
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)


def test_at_its_limit_a_stage_ends_with_every_process_that_came_from_it(tmp_path: Path) -> None:
    done = run(tmp_path, "hang 3", "fast")
    assert done.returncode == 5
    await_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])
    assert {name: entry["outcome"] for name, entry in entries(tmp_path).items()} == {
        "hang": "timed out",
        "fast": "passed",
    }


def test_failures_run_again_unless_they_are_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "fail").returncode == 5
    assert "out of luck" in str(entries(tmp_path)["fail"]["output_tail"])
    run(tmp_path, "fail")
    assert ran(tmp_path) == ["fail", "fail"]
    run(tmp_path, "fail", settings=", keeps_failures=True")
    assert ran(tmp_path) == ["fail", "fail"]


def test_a_call_without_time_for_a_stage_says_so_and_asks_for_another_call(tmp_path: Path) -> None:
    done = run(tmp_path, "fast", "slow", settings=", budget_seconds=0.5")
    assert done.returncode == 75
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "result.json").exists()


def test_a_stage_that_the_calls_budget_cuts_is_not_written_down_as_timed_out(tmp_path: Path) -> None:
    done = run(tmp_path, "hang", settings=", budget_seconds=3.0")
    assert done.returncode == 75
    assert "not ended for lack of time: hang; run the same command again" in done.stdout
    assert not (tmp_path / "result.json").exists()


def place(**other: object) -> Place:
    values = {"machine": "m", "gpus": (), "versions": {"torch": "2"}, "code": "a", "device": "cuda", "is_tiny": False}
    return Place(**(values | other))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{"code": "b"}, {"versions": {"torch": "3"}}, {"machine": "n"}, {"is_tiny": True}])
def test_a_result_of_other_code_versions_or_machine_does_not_count(tmp_path: Path, other: dict[str, object]) -> None:
    file = ResultFile(tmp_path / "r.json")
    file.record("one", {"outcome": "passed", "place": place().plain()})
    again = ResultFile(tmp_path / "r.json")
    assert again.held("one", place(), keeps_failures=False)
    assert not again.held("one", place(**other), keeps_failures=True)
    assert again.held("one", place(**other), keeps_failures=False, any_code=True) == ("code" in other)


def test_a_write_that_is_cut_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    file = ResultFile(path)
    file.record("one", {"outcome": "passed"})
    before = path.read_bytes()

    def cut(*_: object) -> None:
        assert path.read_bytes() == before
        raise OSError("the machine went away")

    monkeypatch.setattr("benchmarks.gpu_check.results.os.fsync", cut)
    with pytest.raises(OSError, match="went away"):
        file.record("two", {"outcome": "passed"})
    assert path.read_bytes() == before
    assert list(ResultFile(path).stages) == ["one"]


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[1]")
    with pytest.raises(DataError, match="no result file"):
        ResultFile(tmp_path / "r.json")


def test_the_codes_hash_changes_with_a_file_and_not_with_its_time(tmp_path: Path) -> None:
    (tmp_path / "learner").mkdir()
    source = tmp_path / "learner" / "a.py"
    source.write_text("x = 1\n")
    first = code_hash(tmp_path)
    os.utime(source, (1, 1))
    assert code_hash(tmp_path) == first
    source.write_text("x = 2\n")
    assert code_hash(tmp_path) != first


def test_no_stage_takes_longer_than_the_limit_and_every_bound_has_a_side() -> None:
    assert LIMIT_SECONDS <= 480
    assert all(stage.limit_seconds <= LIMIT_SECONDS for stage in STAGES)
    assert len({stage.name for stage in STAGES}) == len(STAGES)
    assert all((b.at_least is None) != (b.at_most is None) for stage in STAGES for b in stage.bounds)


def test_every_stages_command_parses_for_the_device_and_tiny() -> None:
    for stage in STAGES:
        command = [*stage.command("cuda", False), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        for option in (word for word in stage.command("cpu", True) if word.startswith("--")):
            assert option in done.stdout or not stage.has_cpu_form, f"{stage.name}: {option}"


def test_a_stage_says_what_the_machine_lacks() -> None:
    stage = Stage("s", "", "m", min_gpus=2, min_gpu_gib=70, has_cpu_form=False)
    assert stage.obstacle("cuda", [79.6]) == "needs 2 GPUs, this machine has 1"
    assert stage.obstacle("cuda", [40.0, 40.0]) == "needs 70 GiB of GPU memory, there are 40"
    assert stage.obstacle("cuda", [79.6, 79.6]) == ""
    assert stage.obstacle("cpu", []) == "has no form for a CPU"


def test_a_bound_needs_its_figure() -> None:
    assert not Bound("mfu", at_least=0.4).is_met({})
    assert Bound("ratio", at_most=1.25).is_met({"ratio": 1.25})


def test_a_cut_result_line_gives_no_figures() -> None:
    assert last_figures('RESULT {"bench": "a", "x": 1}\nRESULT {"bench": "a", "x"') == {}
    assert last_figures('noise\nRESULT {"bench": "a", "machine": "m", "x": 1}\nmore') == {"x": 1}


def test_the_table_says_why_a_stage_was_skipped() -> None:
    assert "needs 2 GPUs" in next(table({"apart": {"outcome": "skipped", "why": "needs 2 GPUs"}}))


def test_outcomes_of_gpu_tests_are_counted_from_their_report() -> None:
    report = (
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>'
        '<testcase name="c"><skipped/></testcase><testcase name="d"><error/></testcase></testsuite></testsuites>'
    )
    assert counts(report) == {"passed": 1, "failed": 2, "skipped": 1, "failed_names": ["b", "d"]}


def test_what_another_machine_measured_is_not_lost_where_a_stage_cannot_run(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.json")
    stages = [Stage(name, "about", "m", min_gpus=2) for name in ("measured", "new")]
    there = {"outcome": "passed", "figures": {"speed": 1.0}, "place": place(machine="other").plain()}
    file.record("measured", there)
    assert run_stages(stages, place(), file, Settings(tmp_path / "logs")) == 0
    assert ResultFile(tmp_path / "r.json").stages["measured"] == there
    assert file.stages["new"]["outcome"] == "skipped"
