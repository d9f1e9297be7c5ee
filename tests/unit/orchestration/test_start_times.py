"""The stopwatch of a start: phases that sum to the whole, and a table once the first update is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration import start_times
from orchestration.start_times import (
    ACTORS,
    EVALUATION,
    FILES,
    GROUPS,
    IMPORTS,
    RAY,
    UPDATE,
    WEIGHTS,
    StartTimes,
    read_start,
)


class Clock:
    """A monotonic clock that is turned by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(start_times, "time", made)
    return made


def started(clock: Clock) -> StartTimes:
    times = StartTimes(clock.monotonic())
    for name, seconds in ((IMPORTS, 1.0), (RAY, 2.0), (ACTORS, 10.0), (FILES, 0.5), (WEIGHTS, 1.5)):
        clock.now += seconds
        times.mark(name)
    times.parts |= {"samplers": 9.5, "learner": 6.0}
    return times


def test_phases_follow_one_another_and_sum_to_the_first_update(clock: Clock, tmp_path: Path) -> None:
    times, said = started(clock), []
    clock.now += 3.0
    times.mark(GROUPS)
    clock.now += 1.0
    times.end(tmp_path, said.append)
    table = read_start(tmp_path)
    assert table["seconds"] == sum(times.phases.values()) == 19.0
    assert table["ready_seconds"] == 15.0, "until every sampler holds the weights"
    assert list(times.phases) == [IMPORTS, RAY, ACTORS, FILES, WEIGHTS, GROUPS, UPDATE]
    assert said == [
        "ready after 15.0 s, first update after 19.0 s; in seconds: imports 1.0, ray 2.0, actors 10.0 (learner 6.0, "
        "samplers 9.5), run files 0.5, first weights 1.5, first groups 3.0, first update 1.0"
    ]


def test_nothing_is_noted_after_the_first_update(clock: Clock, tmp_path: Path) -> None:
    times, said = started(clock), []
    times.end(tmp_path, said.append)
    before = read_start(tmp_path)
    clock.now += 50.0
    times.mark(GROUPS)
    times.end(tmp_path, said.append)
    assert read_start(tmp_path) == before and len(said) == 1
    assert StartTimes.over().phases == {}


def test_a_phase_that_took_no_time_is_left_out_and_one_that_comes_again_adds_up(clock: Clock) -> None:
    times = started(clock)
    times.mark(EVALUATION)
    assert EVALUATION not in times.phases
    for _ in range(2):
        clock.now += 2.0
        times.mark(GROUPS)
    assert times.phases[GROUPS] == 4.0


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not say when a process began")
def test_a_command_is_measured_from_when_its_process_began() -> None:
    script = (
        "import time; time.sleep(0.3); from orchestration.start_times import StartTimes; t = StartTimes.of_process(); "
        "t.mark('imports'); print(t.seconds)"
    )
    began = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert 0.3 <= float(printed.stdout) <= time.monotonic() - began + 0.1
