"""Every kind of exit: signals save first, a dead actor ends the run by name, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestration.run_dir import read_info
from tests.integration.run_helpers import (
    Finished,
    descendants,
    finish,
    history,
    quorum,
    seconds_until_gone,
    start,
    wait_for_ledger,
)
from tests.integration.test_run import PROMPTS, STEPS, arguments, write_data

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(600)]

GONE_SECONDS = 10.0
"""After the driver's own end nothing of the run is alive for longer than this."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exits")
    write_data(directory / "data", num_held_out=20)
    return directory


@pytest.fixture(scope="module")
def baseline(root: Path) -> Finished:
    done = quorum(*arguments(root / "baseline", root / "data"))
    assert done.code == 0, done.output[-3000:]
    return done


def running(root: Path, name: str, *overrides: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A run that has ended at least three steps, and the processes below its driver."""
    process = start(
        *arguments(root / name, root / "data", "deadlines.rollout_seconds=20", "checkpoint.every_steps=3", *overrides)
    )
    wait_for_ledger(root / name, 4 * PROMPTS, limit=240)
    return process, descendants(process.pid)


def find(pids: list[int], words: str) -> int:
    """The process whose command line holds `words`."""
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in command:
            return pid
    raise AssertionError(f"no process of the run is called {words}")


def resume_equals(baseline: Finished, root: Path, name: str) -> None:
    resumed = quorum("train", "--resume", str(root / name))
    assert resumed.code == 0, resumed.output[-3000:]
    assert history(root / name) == history(root / "baseline")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_ends_with_its_code_and_the_run_goes_on(
    baseline: Finished, root: Path, signum: signal.Signals, code: int
) -> None:
    name = signum.name.lower()
    process, pids = running(root, name)
    began = time.monotonic()
    os.kill(process.pid, signum)
    done = finish(process, began)
    assert done.code == code, done.output[-3000:]
    assert "Traceback" not in done.output
    assert "--resume" in done.output
    seconds_until_gone(pids, GONE_SECONDS)
    assert read_info(root / name).state == "interrupted"
    saved = (root / name / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step-")) >= 4, "saved where it stopped, not only where it was due"
    resume_equals(baseline, root, name)


@pytest.mark.parametrize(
    ("victim", "words", "named"),
    [
        ("engine", "VLLM::EngineCore", "sampler-"),
        ("sampler", "ray::Sampler", "sampler-"),
        ("rank", "ray::Rank", "rank "),
    ],
)
def test_a_dead_actor_ends_the_run_by_name_and_resume_works(
    baseline: Finished, root: Path, victim: str, words: str, named: str
) -> None:
    process, pids = running(root, victim, "learner.max_restarts=0")
    began = time.monotonic()
    os.kill(find(pids, words), signal.SIGKILL)
    done = finish(process, began, timeout=120)
    assert done.code == 5, done.output[-3000:]
    error = [line for line in done.output.splitlines() if line.startswith("quorum: error:")]
    assert len(error) == 1 and named in error[0], done.output[-3000:]
    seconds_until_gone(pids, GONE_SECONDS)
    assert read_info(root / victim).state == "failed"
    assert (root / victim / "checkpoints" / "latest").exists()
    resume_equals(baseline, root, victim)


def test_a_hung_engine_is_noticed_within_its_deadline(baseline: Finished, root: Path) -> None:
    process, pids = running(root, "hung")
    began = time.monotonic()
    stopped = find(pids, "VLLM::EngineCore")
    os.kill(stopped, signal.SIGSTOP)
    done = finish(process, began, timeout=150)
    assert done.code == 5, done.output[-3000:]
    seconds_until_gone(pids, GONE_SECONDS)
    resume_equals(baseline, root, "hung")


def test_an_engine_that_cannot_start_says_so_and_leaves_nothing(root: Path) -> None:
    done = quorum(
        *arguments(root / "no-engine", root / "data", "rollout.engine={name: vllm, options: {load_format: nonsense}}")
    )
    assert done.code == 4, done.output[-3000:]
    assert "sampler-" in done.output and "nonsense" in done.output
    assert "Traceback" not in done.output


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(baseline: Finished, root: Path) -> None:
    mount = root / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True, timeout=30, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = quorum(*arguments(mount / "run", root / "data", "checkpoint.every_steps=1", "checkpoint.keep=50"))
        assert done.code == 5, done.output[-3000:]
        assert "disk full" in done.output and "--resume" in done.output
        assert 0 < len(list((mount / "run" / "groups").glob("*.parquet"))) <= STEPS
    finally:
        subprocess.run(["umount", str(mount)], timeout=30, check=False)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_seconds", [6.0, 20.0])
def test_a_signal_while_actors_start_ends_the_run_soon_and_leaves_nothing(
    root: Path, after_seconds: float, signum: signal.Signals
) -> None:
    run = root / f"early-{after_seconds:.0f}-{signum.name}"
    process = start(*arguments(run, root / "data"))
    time.sleep(after_seconds)
    pids = descendants(process.pid)
    began = time.monotonic()
    os.kill(process.pid, signum)
    done = finish(process, began, timeout=60)
    assert done.code == 128 + signum, done.output[-3000:]
    assert done.seconds < 40
    assert "Traceback" not in done.output
    seconds_until_gone(pids, GONE_SECONDS)


def test_a_run_on_an_existing_cluster_is_the_same_history(baseline: Finished, root: Path) -> None:
    """Its workers do not start in the driver's directory, and it goes on when the run is over."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=8"]
    options = ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    with open(root / "ray.log", "w") as log:
        began = subprocess.Popen([*ray, *options], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_reached(address, limit=60)
        done = quorum(*arguments(root / "cluster", root / "data", f"cluster.address={address}"), env=environment)
        assert done.code == 0, done.output[-3000:]
        assert began.poll() is None
        small = quorum(
            *arguments(root / "large", root / "data", f"cluster.address={address}", "learner.num_ranks=20"),
            env=environment,
        )
        assert small.code == 4 and "the cluster has 8" in small.output
    finally:
        os.killpg(began.pid, signal.SIGTERM)
        began.wait(timeout=60)
        forget(address)
    assert history(root / "cluster") == history(root / "baseline")


def wait_until_reached(address: str, limit: float) -> None:
    host, port = address.split(":")
    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nobody listened on {address} within {limit:.0f} s")


def forget(address: str) -> None:
    """`ray start` leaves its address to later clients of the machine, also when it is over."""
    current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    if current.exists() and current.read_text().strip() == address:
        current.unlink()
