"""Shared by all tests: offline, unit tests first, GPU tests skipped without a device, no process left behind."""

import importlib.util
import os
import signal
import time
from collections.abc import Iterator

import hypothesis
import pytest

from orchestration.machine import cuda_devices
from rollout import watchdog

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
MARK = watchdog.new_mark("tests")
"""Every process that a test starts inherits it."""
os.environ.update([MARK.split("=", 1), (watchdog.KEEP_ENVIRONMENT, "1")])

hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=200, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

_ORDER = ("unit", "contracts", "integration", "gpu")
_GRACE_SECONDS = 15.0
"""What the children of the last tests have to end in."""
_OF_PYTHON_ITSELF = ("resource_tracker", "forkserver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("pytest_rerunfailures"):
        for item in items:
            if item.get_closest_marker("wall_clock"):
                item.add_marker(pytest.mark.flaky(reruns=1))
    items.sort(key=lambda item: next((i for i, kind in enumerate(_ORDER) if f"tests/{kind}/" in str(item.path)), 0))
    if any(item.get_closest_marker("gpu") for item in items) and not cuda_devices():
        skip = pytest.mark.skip(reason="no CUDA device on this machine")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fails the session's last test when a test left a child process behind; ends what it left, by pid."""
    yield
    if importlib.util.find_spec("psutil") is None:
        return
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}, f"processes left behind by tests: {left}"


def _children() -> dict[int, str]:
    """Living processes that tests started, whoever their parent is by now: pid -> command line."""
    import psutil

    found = {}
    for pid in watchdog.marked(MARK):
        try:
            child = psutil.Process(pid)
            command = " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and not any(word in command for word in _OF_PYTHON_ITSELF):
                found[pid] = command[:120]
        except psutil.NoSuchProcess:
            continue
    return found
