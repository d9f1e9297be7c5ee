"""The supervisor with real processes: retries, one signal for the driver, and no driver without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.jobs import supervisor
from orchestration.jobs.supervisor import ancestors, exit_code, should_retry

ROOT = Path(__file__).parents[4]
SECONDS = 30.0
DRIVER = """
import os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[1]); words = sys.argv[2:]
with open(run / "attempts", "a") as file:
    print(*words, file=file)
if "wait" in words or (run / "wait").exists():
    def came(signum, frame):
        with open(run / "signals", "a") as file:
            print(signum, file=file)
    signal.signal(signal.SIGTERM, came)
    (run / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while not (run / "signals").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)  # for a second signal, if one came
    sys.exit(143)
codes = (run / "codes").read_text().split()
(run / "codes").write_text(" ".join(codes[1:]))
(run / "run.json").write_text("{}")
if codes[0] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(codes[0]))
"""


@pytest.fixture
def driver(tmp_path: Path) -> list[str]:
    """A command that writes down how it was called and ends as the file `codes` says."""
    (tmp_path / "driver.py").write_text(DRIVER)
    return [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)]


def supervise(run: Path, driver: list[str], *words: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from orchestration.jobs import supervisor as s; "
        f"s.FIRST_WAIT_SECONDS = s.LONGEST_WAIT_SECONDS = 0.05; sys.exit(s.main(sys.argv[1:], {driver!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "--run", str(run), *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def attempts(run: Path) -> list[str]:
    return (run / "attempts").read_text().splitlines()


def until(path: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)
    return path.read_text()


def test_a_killed_and_a_failed_driver_are_resumed_and_the_log_says_so(tmp_path: Path, driver: list[str]) -> None:
    (tmp_path / "codes").write_text("kill 5 4 0")
    process = supervise(tmp_path, driver, "--retries", "3", "--set=a=1", "--", "my.yaml", "x=2")
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert attempts(tmp_path) == ["my.yaml x=2 a=1"] + [f"--resume {tmp_path} a=1"] * 3
    assert "was ended by SIGKILL; retry 1 of 3" in log
    assert "ended with exit code 5; retry 2 of 3" in log


@pytest.mark.parametrize("code", [0, 2, 3, 4, 130, 143])
def test_what_a_resume_cannot_cure_is_not_tried_again(tmp_path: Path, driver: list[str], code: int) -> None:
    (tmp_path / "codes").write_text(f"{code} 0")
    process = supervise(tmp_path, driver, "--retries", "3", "--", "my.yaml")
    process.communicate(timeout=SECONDS)
    assert (process.returncode, len(attempts(tmp_path))) == (code, 1)


@pytest.mark.parametrize(("codes", "code"), [("5 kill 1", 5), ("kill 1 5", 1)])
def test_retries_end_with_the_last_code_and_never_as_if_the_supervisor_was_killed(
    tmp_path: Path, driver: list[str], codes: str, code: int
) -> None:
    """137 means a job lost with its node, which is submitted again with as many retries."""
    (tmp_path / "codes").write_text(codes)
    process = supervise(tmp_path, driver, "--retries", "1", "--", "my.yaml")
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == code and len(attempts(tmp_path)) == 2
    assert "all 1 retries are used up" in log


def test_a_resumed_submission_of_a_run_that_never_began_starts_it(tmp_path: Path, driver: list[str]) -> None:
    (tmp_path / "codes").write_text("0 0")
    for _ in range(2):
        supervise(tmp_path, driver, "--resume", "--", "my.yaml").communicate(timeout=SECONDS)
    assert attempts(tmp_path) == ["my.yaml", f"--resume {tmp_path}"]


def test_a_resumed_submission_keeps_its_overrides_but_not_its_configuration(tmp_path: Path, driver: list[str]) -> None:
    (tmp_path / "codes").write_text("5 0")
    (tmp_path / "run.json").write_text("{}")
    words = ["my.yaml", f"run.dir={tmp_path}", "a.b=1", "c=2"]
    process = supervise(tmp_path, driver, "--retries", "1", "--resume", "--set=c=3", "--", *words)
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert attempts(tmp_path) == [f"--resume {tmp_path} a.b=1 c=2 c=3"] * 2
    assert "my.yaml is not read again" in log


def test_a_run_submitted_again_has_the_overrides_of_its_start_already(tmp_path: Path, driver: list[str]) -> None:
    """They may have been changed by a resume since."""
    (tmp_path / "codes").write_text("0 0")
    for _ in range(2):
        supervise(tmp_path, driver, "--again", "--set=c=3", "--", "my.yaml", "a=1").communicate(timeout=SECONDS)
    assert attempts(tmp_path) == ["my.yaml a=1 c=3", f"--resume {tmp_path} c=3"]


@pytest.mark.parametrize("how", ["--resume", "--again"])
def test_a_run_that_had_its_resources_waits_for_them_after_its_node_was_lost(
    tmp_path: Path, driver: list[str], how: str
) -> None:
    (tmp_path / "codes").write_text("4 4 0")
    (tmp_path / "run.json").write_text("{}")
    process = supervise(tmp_path, driver, "--retries", "3", how, "--", "my.yaml")
    process.communicate(timeout=SECONDS)
    assert (process.returncode, len(attempts(tmp_path))) == (0, 3)


def test_missing_resources_are_waited_for_as_long_as_possible() -> None:
    waits = [supervisor.wait_seconds(5, attempt) for attempt in range(7)]
    assert waits == [2, 4, 8, 16, 32, 60, 60] and supervisor.wait_seconds(4, 0) == 60


@pytest.mark.parametrize("is_ancestor", [True, False])
def test_the_driver_gets_exactly_one_signal_to_stop(tmp_path: Path, driver: list[str], is_ancestor: bool) -> None:
    """Ray signals every process below its own, the driver too; others signal the supervisor alone."""
    process = supervise(tmp_path, driver, "--retries", "3", "--", "wait")
    pid = int(until(tmp_path / "pid"))
    if is_ancestor:
        for target in (process.pid, pid):
            os.kill(target, signal.SIGTERM)
    else:
        subprocess.run([sys.executable, "-c", f"import os; os.kill({process.pid}, 15)"], timeout=SECONDS, check=True)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert (tmp_path / "signals").read_text().split() == ["15"]
    assert len(attempts(tmp_path)) == 1


def test_no_driver_outlives_its_supervisor(tmp_path: Path, driver: list[str]) -> None:
    process = supervise(tmp_path, driver, "--", "wait")
    pid = int(until(tmp_path / "pid"))
    process.kill()
    process.communicate(timeout=SECONDS)
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_exit_codes_are_those_of_a_shell_and_ancestors_are_found() -> None:
    assert exit_code(-9) == 137 and exit_code(5) == 5
    assert should_retry(-9, False) and not should_retry(-15, True)
    assert should_retry(4, True) and not should_retry(4, False)
    assert ancestors(os.getpid())[0] == os.getppid()
    assert supervisor.RETRIED == (1, 5)


def test_a_run_goes_on_without_any_words(tmp_path: Path, driver: list[str]) -> None:
    (tmp_path / "codes").write_text("0")
    (tmp_path / "run.json").write_text("{}")
    supervise(tmp_path, driver, "--resume").communicate(timeout=SECONDS)
    assert attempts(tmp_path) == [f"--resume {tmp_path}"]


def test_a_driver_is_told_the_name_that_its_run_is_resumed_by(tmp_path: Path) -> None:
    code = f"import os; open({str(tmp_path / 'name')!r}, 'w').write(os.environ['{supervisor.SUBMITTED_AS}'])"
    supervised = supervisor.Supervisor(tmp_path, 0, [sys.executable, "-c", code], name="a")
    assert supervised.drive(["x"]) == 0
    assert (tmp_path / "name").read_text() == "a"
