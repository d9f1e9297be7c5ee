"""What `quorum scale` shows of a run, and when it is content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli.main import app
from orchestration.cli.scale import is_reached, new_events, standing


def status(wanted: int, **states: str) -> dict[str, object]:
    ready = sum(state == "ready" for state in states.values())
    return {"num_wanted": wanted, "num_ready": ready, "step": 3, "samplers": states}


def test_it_is_reached_when_the_run_wants_that_many_and_all_are_ready() -> None:
    assert is_reached(status(2, a="ready", b="ready"), 2)
    assert is_reached(status(2, a="ready", b="ready", c="retired", d="dead"), 2)
    assert not is_reached(status(3, a="ready", b="ready"), 2), "the order is not taken yet"
    assert not is_reached(status(2, a="ready", b="stale"), 2)
    assert not is_reached(status(1, a="ready", b="draining"), 1), "one is still leaving"
    assert not is_reached({}, 1)


def test_those_that_are_not_ready_are_named() -> None:
    assert standing(status(3, a="ready", b="starting", c="dead")) == "1 of 3 READY (b STARTING), step 3"
    assert standing({}) == "no word from the driver yet"


def test_events_are_shown_once_also_when_the_oldest_drop_out() -> None:
    assert new_events([], ["a", "b"]) == ["a", "b"]
    assert new_events(["a", "b"], ["a", "b"]) == []
    assert new_events(["a", "b", "c"], ["b", "c", "d", "e"]) == ["d", "e"]
    assert new_events(["a"], ["x", "y"]) == ["x", "y"]


def run_of(path: Path, **fields: object) -> Path:
    path.mkdir()
    info = {
        "run_id": "r",
        "namespace": "quorum-r-0",
        "incarnation": 0,
        "branch": 0,
        "address": "127.0.0.1:1",
        "driver_pid": os.getpid(),
        "started_at": "",
        "quorum_version": "0",
    }
    (path / "run.json").write_text(json.dumps(info | fields))
    return path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": "done"}, "it is done"),
        ({"state": "failed"}, "it is failed; `quorum train --resume"),
        ({"state": "running"}, "its driver is gone (killed); `quorum train --resume"),
    ],
)
def test_a_run_that_is_not_running_is_refused_with_how_it_stands(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    run = run_of(tmp_path / "run", **fields)
    done = CliRunner().invoke(app, ["scale", str(run), "--samplers", "2"])
    assert done.exit_code == 2, done.output
    assert words in done.output


def test_an_unknown_run_is_a_data_error() -> None:
    done = CliRunner().invoke(app, ["scale", "no-such-run", "--samplers", "2"])
    assert done.exit_code == 3 and "no run at no-such-run" in done.output


@pytest.mark.parametrize(
    ("address", "words"),
    [("local", "is still starting"), ("127.0.0.1:1", "is not reached at 127.0.0.1:1")],
)
def test_a_ray_that_is_not_reached_is_a_resource_error(tmp_path: Path, address: str, words: str) -> None:
    import fcntl

    run = run_of(tmp_path / "run", address=address)
    with open(run / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = CliRunner().invoke(app, ["scale", str(run), "--samplers", "2"])
    assert done.exit_code == 4, done.output
    assert words in done.output
