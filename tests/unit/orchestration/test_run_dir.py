"""The run directory: made once, locked, written atomically."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import RunConfig
from orchestration.jobs.supervisor import SUBMITTED_AS
from orchestration.run_dir import RunDir, read_config, read_info, resolve_run, write_atomic
from orchestration.watch.story import story
from quorum.errors import ConfigError, DataError, Interrupted, ResourceError, StorageError


def config(path: Path) -> RunConfig:
    sections = {"run": {"dir": str(path)}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}}
    return RunConfig.model_validate(sections)


def test_a_new_run_has_its_configuration_and_says_who_drives_it(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path / "run"))
    assert read_config(run.path) == config(tmp_path / "run")
    info = read_info(run.path)
    assert (info.incarnation, info.driver_pid, info.state) == (0, os.getpid(), "running")
    run.close()


def test_an_existing_directory_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"exists.*run\.dir=.*--resume"):
        RunDir.create(config(tmp_path / "run"))


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path / "run"))
    code = (
        "import sys; from pathlib import Path; from orchestration.run_dir import RunDir, read_config\n"
        "path = Path(sys.argv[1]); RunDir.resume(path, read_config(path))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert f"pid {os.getpid()}" in done.stderr
    assert ResourceError.__name__ in done.stderr
    run.close()


def test_resuming_counts_the_incarnation_and_keeps_the_run_id(tmp_path: Path) -> None:
    first = RunDir.create(config(tmp_path / "run"))
    first.close()
    second = RunDir.resume(first.path, config(tmp_path / "run"))
    assert second.info.incarnation == 1
    assert second.info.run_id == first.info.run_id
    second.close()


def test_a_run_is_found_by_path_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunDir.create(config(tmp_path / "runs" / "mine")).close()
    assert resolve_run("mine") == resolve_run("runs/mine") == tmp_path / "runs" / "mine"
    with pytest.raises(DataError, match="runs here: mine"):
        resolve_run("other")


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_atomic(file, "old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from orchestration.run_dir import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "write_atomic(Path(sys.argv[1]), 'x' * 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert StorageError.__name__ in done.stderr
    assert file.read_text() == "old"


@pytest.mark.parametrize("name", ["", "my-run"])
def test_a_run_that_a_job_drives_is_continued_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(SUBMITTED_AS, name)
    run = RunDir.create(config(tmp_path / "run"), "hash of prompts")
    way_on = "quorum resume my-run" if name else f"quorum train --resume {tmp_path / 'run'}"
    with pytest.raises(Interrupted, match=f"continue with `{way_on}`"), run.recording_end():
        raise Interrupted(15)
    assert f"continue: {way_on}" in story(run.path)


def test_a_directory_that_cannot_be_made_starts_nothing() -> None:
    with pytest.raises(ResourceError, match=r"nothing was started.*run\.dir"):
        RunDir.create(config(Path("/proc/x/y")))
