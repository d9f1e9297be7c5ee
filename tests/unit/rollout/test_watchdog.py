import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rollout import watchdog

PARENT = textwrap.dedent(
    """
    import os, subprocess, sys, time
    from rollout import watchdog
    os.environ[watchdog.TOKEN_VARIABLE] = sys.argv[1]
    watcher = watchdog.start(sys.argv[1], *map(int, sys.argv[2:]))
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    print(watcher, child.pid, flush=True)
    time.sleep(300)
    """
)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", ["actor", "driver"])
def test_children_in_a_session_of_their_own_are_gone_soon_after_actor_or_driver_is_killed(victim: str) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    token = f"test-{os.getpid()}-{time.time_ns()}"
    with subprocess.Popen(["sleep", "300"]) as driver:
        command = [sys.executable, "-c", PARENT, token, str(driver.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as actor:
            assert actor.stdout is not None
            watcher_pid, child_pid = map(int, actor.stdout.readline().split())
            assert set(watchdog.pids_with_token(token)) == {child_pid}
            os.kill({"actor": actor, "driver": driver}[victim].pid, signal.SIGKILL)
            actor.wait(timeout=30)
        driver.kill()
        driver.wait(timeout=30)
    deadline = time.monotonic() + 30
    while (is_alive(watcher_pid) or is_alive(child_pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child_pid)
    assert not is_alive(watcher_pid)


def test_a_process_is_told_from_a_later_one_with_its_id() -> None:
    assert watchdog.started_at(os.getpid()) is not None
    assert watchdog.started_at(2**30) is None


def test_nobody_else_has_the_token() -> None:
    assert watchdog.pids_with_token("no-such-token") == []
    assert watchdog.kill_token("no-such-token") == []
