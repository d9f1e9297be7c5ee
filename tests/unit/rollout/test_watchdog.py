import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rollout import watchdog

pytestmark = pytest.mark.wall_clock

PARENT = textwrap.dedent(
    """
    import os, subprocess, sys, time
    from rollout import watchdog
    watcher = watchdog.start(sys.argv[1], *map(int, sys.argv[2:]))
    with watchdog.marking(sys.argv[1]):
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
    mark = watchdog.new_mark("test")
    with subprocess.Popen(["sleep", "300"]) as driver:
        command = [sys.executable, "-c", PARENT, mark, str(driver.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as actor:
            assert actor.stdout is not None
            watcher_pid, child_pid = map(int, actor.stdout.readline().split())
            assert set(watchdog.marked(mark)) == {child_pid}
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


def test_nobody_else_has_the_mark() -> None:
    mark = watchdog.new_mark("test")
    assert watchdog.marked(mark) == []
    assert watchdog.end_marked(mark) == []


def test_a_process_that_sets_its_title_keeps_its_mark() -> None:
    setproctitle = pytest.importorskip("setproctitle")
    assert setproctitle
    mark = watchdog.new_mark("test")
    code = "import setproctitle, time; setproctitle.setproctitle('x' * 40); print(flush=True); time.sleep(300)"
    with watchdog.marking(mark):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert watchdog.marked(mark) == [child.pid]
        assert watchdog.end_marked(mark) == [child.pid]
        assert child.wait(timeout=30) == -signal.SIGKILL


def test_marked_processes_may_end_by_themselves_first() -> None:
    mark = watchdog.new_mark("test")
    with watchdog.marking(mark):
        child = subprocess.Popen(["sleep", "2"])
    assert watchdog.marked(mark) == [child.pid]
    assert child.wait(timeout=30) == 0
    assert watchdog.end_marked(mark, grace_seconds=5.0) == []


def test_what_killed_processes_left_in_shared_memory_and_in_their_folder_is_removed(tmp_path: Path) -> None:
    child = textwrap.dedent(
        """
        import multiprocessing, tempfile, time
        from multiprocessing.shared_memory import SharedMemory
        lock, memory = multiprocessing.get_context("spawn").Lock(), SharedMemory(create=True, size=100)
        tempfile.NamedTemporaryFile(delete=False)
        print(memory.name, lock._semlock.name[1:], flush=True)
        time.sleep(300)
        """
    )
    parent = textwrap.dedent(
        """
        import subprocess, sys, time
        from rollout import watchdog
        watcher = watchdog.start(sys.argv[1], folder=sys.argv[2])
        with watchdog.marking(sys.argv[1], sys.argv[2]):
            subprocess.Popen([sys.executable, "-c", sys.argv[3]], start_new_session=True)
        time.sleep(300)
        """
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    mark, folder = watchdog.new_mark("test"), tmp_path / "files"
    folder.mkdir()
    command = [sys.executable, "-c", parent, mark, str(folder), child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as actor:
        assert actor.stdout is not None
        memory, lock = actor.stdout.readline().split()
        left = [Path("/dev/shm", memory), Path("/dev/shm", "sem." + lock), *folder.iterdir()]
        assert len(left) == 3 and all(path.exists() for path in left), left
        time.sleep(4 * watchdog.POLL_SECONDS)
        for pid in watchdog.marked(mark):
            os.kill(pid, signal.SIGKILL)  # the resource tracker too, as Ray does
        actor.kill()
        actor.wait(timeout=30)
    deadline = time.monotonic() + 30
    while (any(path.exists() for path in left) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists() and [path for path in left if path.exists()] == []


HOLDER = textwrap.dedent(
    """
    import multiprocessing, time
    lock = multiprocessing.get_context("spawn").Lock()
    print(lock._semlock.name, flush=True)
    time.sleep(300)
    """
)


def test_a_dismissed_watchdog_removes_what_a_process_held_that_was_killed_and_leaves_its_owner_alone(
    tmp_path: Path,
) -> None:
    mark, folder = watchdog.new_mark("test"), tmp_path / "folder"
    folder.mkdir()
    watcher = watchdog.start(mark, folder=str(folder))
    with watchdog.marking(mark):
        holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        name = f"sem.{holder.stdout.readline().strip().lstrip('/')}"
        assert (Path(watchdog.SHARED_MEMORY) / name).exists()
        time.sleep(4 * watchdog.POLL_SECONDS)
        for tracker in set(watchdog.marked(mark)) - {holder.pid}:  # it would remove the semaphore itself
            watchdog.stop(tracker)
        watchdog.end_marked(mark)
        assert holder.wait(timeout=30) == -signal.SIGKILL
    assert (Path(watchdog.SHARED_MEMORY) / name).exists()
    watchdog.dismiss(watcher)
    assert not is_alive(watcher)
    assert not (Path(watchdog.SHARED_MEMORY) / name).exists() and not folder.exists()
    watchdog.dismiss(watcher)
