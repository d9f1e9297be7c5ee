"""`make chaos`: one long run under many blows, the driver's death and a resume among them, beside a calm one.

    python -m tests.integration.long_chaos [MINUTES [SEED]]

Of 40 minutes 50 blows and more come of it, 15 or more of them on samplers and engines, one on a learner rank. Ledger
and weights of both runs must be equal, no group quarantined, and no process or shared memory left. Ends with RESULT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestration.cli.result import result_line
from quorum.types import EndState
from tests.integration.chaos import Chaos, processes, shared_memory
from tests.integration.exact_runs import arguments, environment
from tests.integration.run_helpers import descendants, finish, history, quorum, seconds_until_gone, start

STEPS_PER_MINUTE = 6
SECONDS_PER_BLOW = 40.0
KINDS = ("sampler", "sampler", "engine", "engine", "voter", "hang", "scale")
SETTINGS = (
    "rollout.num_samplers=2",
    "learner.max_restarts=50",
    "rollout.restart.max_restarts=1000",
    "rollout.restart.max_backoff_seconds=5",
    "deadlines.rollout_seconds=30",
    "deadlines.probe_seconds=5",
    "checkpoint.every_steps=10",
)
PAUSE = (SECONDS_PER_BLOW / 4, SECONDS_PER_BLOW)
MOST_FACTOR = 3.0
"""A disturbed run may take so many times the minutes asked for."""


@dataclass
class Disturbed:
    """A run that is hit again and again, by one driver after the other."""

    run: Path
    minutes: float
    seed: int
    env: dict[str, str]
    blows: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """Processes that were ever there."""
    began: float = field(default_factory=time.monotonic)

    @property
    def most(self) -> int:
        """Blows in all, besides a rank's and the driver's."""
        return max(4, round(self.minutes * 60 / SECONDS_PER_BLOW))

    def until_the_driver_dies(self, words: list[str]) -> None:
        """The first half; a learner rank is killed on the way, and at the end the driver with everything below it."""
        process = start(*words, env=self.env)
        blows = self._chaos(process, self.most // 2)
        rank_at = self.began + self.minutes * 10
        while len(blows.done) < self.most // 2:
            assert process.poll() is None, finish(process, self.began).output[-3000:]
            if time.monotonic() > rank_at and (ranks := processes(process.pid, "rank")):
                ranks[0].kill()
                self.blows.append("rank")
                rank_at = float("inf")
            self._look(process)
        blows.stop()
        for pid in (process.pid, *descendants(process.pid)):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        self.blows += ["driver", *blows.done]

    def to_the_end(self) -> str:
        """The second half, resumed; returns what the run said."""
        process = start("train", "--resume", str(self.run), env=self.env)
        blows = self._chaos(process, self.most - self.most // 2)
        while process.poll() is None and time.monotonic() - self.began < MOST_FACTOR * self.minutes * 60:
            self._look(process)
        blows.stop()
        done = finish(process, self.began, 60)
        self.blows += blows.done
        assert done.code == 0, done.output[-4000:]
        seconds_until_gone([pid for pid in self.seen if psutil.pid_exists(pid)], 30)
        return done.output

    def _chaos(self, process: subprocess.Popen[str], most: int) -> Chaos:
        while not list(self.run.glob("groups/*.running.arrow")) or not processes(process.pid, "sampler"):
            assert process.poll() is None, finish(process, self.began).output[-3000:]
            time.sleep(0.2)
        self.seed += 1
        return Chaos(process.pid, self.run, KINDS, self.seed, PAUSE, most).start()

    def _look(self, process: subprocess.Popen[str]) -> None:
        self.seen |= set(descendants(process.pid))
        time.sleep(0.5)


def main(minutes: float, seed: int, root: Path) -> str:
    """Run both and compare; returns the RESULT line."""
    settings = (*SETTINGS, f"run.num_steps={max(8, round(minutes * STEPS_PER_MINUTE))}")
    calm = quorum(*arguments(root / "calm", *settings), env=environment(root / "peace"), timeout=minutes * 120)
    assert calm.code == 0, calm.output[-3000:]
    shared = shared_memory()
    disturbed = Disturbed(root / "disturbed", minutes, seed, environment(root / "sabotage"))
    disturbed.until_the_driver_dies(arguments(disturbed.run, *settings))
    disturbed.to_the_end()
    assert not shared_memory() - shared, shared_memory() - shared
    ours, theirs = history(disturbed.run), history(root / "calm")
    assert ours.ledger == theirs.ledger, "the ledgers differ"
    assert ours.groups == theirs.groups, "the groups differ"
    assert ours.weights == theirs.weights, "the weights differ"
    assert EndState.QUARANTINED not in {row.end_state for row in ours.ledger}
    counts = Counter(blow.split()[0] for blow in disturbed.blows)
    figures = {f"blows_{kind}": float(count) for kind, count in sorted(counts.items())}
    figures |= {"blows": float(len(disturbed.blows)), "groups": float(len(ours.ledger))}
    figures |= {"seconds_calm": calm.seconds, "seconds_disturbed": time.monotonic() - disturbed.began}
    return result_line("chaos", figures, seed=seed, repeats=1)


if __name__ == "__main__":
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="quorum-chaos-") as folder:
        minutes, drawn = float(given[0]) if given else 40.0, int(given[1]) if given[1:] else int(time.time())
        sys.stdout.write(main(minutes, drawn, Path(folder)) + "\n")
