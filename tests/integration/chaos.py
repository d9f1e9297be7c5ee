"""Kills parts of a live run at random and changes its number of samplers, and tells what it did.

Everything is found among the driver's descendants by name, and ended by process id.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.integration.run_helpers import ROOT

TITLES = {"sampler": "ray::Sampler", "engine": "VLLM::EngineCore", "voter": "ray::Voter", "rank": "ray::Rank"}
"""What the processes of each kind are called."""


def processes(driver: int, kind: str) -> list[psutil.Process]:
    """Living processes of a kind below a driver."""
    found = []
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.Error:
        return []
    for process in below:
        try:
            title = " ".join(process.cmdline())
            if title.startswith(TITLES[kind]) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass
class Chaos:
    """Ends processes of a run until it is stopped.

    Args:
        driver: process id of the run's `quorum train`.
        run: its directory.
        kinds: what to do, drawn with equal odds: sampler, engine, voter, rank (SIGKILL), hang (an engine is stopped),
            scale (the number of samplers changes between 1 and 3).
        seed: of the draws.
        pause: shortest and longest time between two blows, seconds.
        most: blows in all.
    """

    driver: int
    run: Path
    kinds: Sequence[str]
    seed: int
    pause: tuple[float, float]
    most: int
    done: list[str] = field(default_factory=list)
    """What was done, in order."""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> Chaos:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=60)

    @property
    def counts(self) -> Counter[str]:
        """How often each kind was hit."""
        return Counter(blow.split()[0] for blow in self.done)

    def _work(self) -> None:
        while len(self.done) < self.most and not self._ended.wait(self._rng.uniform(*self.pause)):
            kind = self._rng.choice(list(self.kinds))
            blow = self._scale() if kind == "scale" else self._hit(kind)
            if blow:
                self.done.append(blow)

    def _hit(self, kind: str) -> str:
        victims = processes(self.driver, "engine" if kind == "hang" else kind)
        if not victims:
            return ""
        victim = self._rng.choice(sorted(victims, key=lambda process: process.pid))
        try:
            victim.send_signal(signal.SIGSTOP if kind == "hang" else signal.SIGKILL)
        except psutil.Error:
            return ""
        return f"{kind} {victim.pid} at {time.strftime('%H:%M:%S')}"

    def _scale(self) -> str:
        wanted = self._rng.choice([1, 2, 3])
        command = [
            sys.executable,
            "-m",
            "orchestration",
            "scale",
            str(self.run),
            "--samplers",
            str(wanted),
            "--no-wait",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
        return f"scale {wanted} at {time.strftime('%H:%M:%S')}" if done.returncode == 0 else ""


def shared_memory() -> set[str]:
    """Shared memory and semaphores of Python processes on this machine."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "sem.mp"))}
