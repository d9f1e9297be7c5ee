"""Entry point of a submitted run: drives it in a child process, and resumes it when the driver dies.

    python -m orchestration.jobs.supervisor --run DIR --retries K [--resume | --again] -- CONFIG [overrides]

Standard library alone, so that it stays up where the driver runs out of memory. It ends with the driver's exit code,
5 instead of 137 for one that was killed however often it was started: 137 is left to mean that the supervisor was.
The driver never outlives it: the kernel kills it with the supervisor. Ray's `stop` signals every process below its own
at once; a signal from anybody else is passed on, so that the driver always gets exactly one and saves a checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

RETRIED = (1, 5)
"""Exit codes of a driver that a resume may cure: something unforeseen, a stage that failed."""
NO_RESOURCES = 4
"""Cured by waiting only where the resources were there before: after a node was lost."""
KEPT_FAILING = 5
"""Exit code for a driver that was killed each time."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0
"""Between attempts; doubled each time. The longest at once after NO_RESOURCES: a file server keeps the lock of a node
that is gone for some 90 s, and nodes that replace it take minutes."""
LOOK_SECONDS = 0.2
SUBMITTED_AS = "QUORUM_SUBMITTED_AS"
"""Variable that tells a driver under which name its run is resumed."""
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1


def should_retry(code: int, had_resources: bool) -> bool:
    """Whether another attempt may get further.

    Args:
        code: how the driver ended: an exit code, or minus a signal as of `subprocess`.
        had_resources: an earlier attempt, or an earlier job of the run, was placed.
    """
    if code < 0:
        return -code not in _STOPPING
    return code in RETRIED or (code == NO_RESOURCES and had_resources)


def wait_seconds(code: int, attempt: int) -> float:
    """Until the next attempt, after one (0 is the first) that ended so."""
    return LONGEST_WAIT_SECONDS if code == NO_RESOURCES else min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt)


def exit_code(code: int) -> int:
    """An exit code as a shell has it: 128 + signal where one ended the process."""
    return 128 - code if code < 0 else code


def in_words(code: int) -> str:
    """How a driver ended."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Supervisor:
    """Makes attempts at one run until one ends for good."""

    def __init__(
        self, run: Path, retries: int, command: Sequence[str], overrides: Sequence[str] = (), name: str = ""
    ) -> None:
        """`command` starts a driver, given the words of `train`; `overrides` are for resumed runs.

        `name` is what the run was submitted as; empty where nobody can resume it by a name.
        """
        self._run, self._retries, self._command = run, retries, tuple(command)
        self._overrides, self._name = tuple(overrides), name
        self._stopped = False
        # Now: the shell between Ray and this process may end by the same signal before it is asked who sent it.
        self._above = frozenset(ancestors(os.getpid()))

    def drive(self, arguments: Sequence[str], *, resume: bool = False, again: bool = False) -> int:
        """Attempts at the run. Returns the exit code of the last.

        Args:
            arguments: CONFIG and overrides of a first attempt.
            resume: go on with the run if it was started before, with the overrides of `arguments`.
            again: likewise, where it was submitted with `arguments` before: they are in the run's own configuration,
                maybe changed since, and count only where the run was never started.
        """
        was_started = (resume or again) and self._is_started()
        kept = [word for word in arguments[1:] if resume and word.partition("=")[0].strip() != "run.dir"]
        if was_started and resume and arguments:
            _say(f"run {self._run} goes on with its configuration and the overrides: {arguments[0]} is not read again")
        for attempt in range(self._retries + 1):
            code = self._attempt(self._words(arguments, kept, resume or again or attempt > 0))
            if code == 0 or self._stopped or not should_retry(code, was_started or attempt > 0):
                return exit_code(code)
            if attempt == self._retries:
                _say(f"the driver {in_words(code)}; all {self._retries} retries are used up: {self._way_on()} goes on")
                return KEPT_FAILING if code == -signal.SIGKILL else exit_code(code)
            seconds = wait_seconds(code, attempt)
            _say(
                f"the driver {in_words(code)}; retry {attempt + 1} of {self._retries} in {seconds:g} s, from the last "
                f"checkpoint of {self._run}"
            )
            if self._wait(seconds):
                return 128 + signal.SIGTERM
        raise AssertionError("unreachable: the last attempt returns")

    def _way_on(self) -> str:
        return f"`quorum resume {self._name}`" if self._name else f"`quorum train --resume {self._run}`"

    def _is_started(self) -> bool:
        return (self._run / "run.json").is_file()

    def _words(self, arguments: Sequence[str], kept: Sequence[str], resume: bool) -> list[str]:
        if not resume or not self._is_started():
            return [*arguments, *self._overrides]
        # What was overridden at the run's start is in its own configuration.
        return ["--resume", str(self._run), *kept, *self._overrides]

    def _attempt(self, words: Sequence[str]) -> int:
        env = os.environ | ({SUBMITTED_AS: self._name} if self._name else {})
        child = subprocess.Popen([*self._command, *words], stdin=subprocess.DEVNULL, env=env, preexec_fn=_fate_shared())
        while child.poll() is None:
            self._wait(LOOK_SECONDS, child)
        return int(child.returncode)

    def _wait(self, seconds: float, child: subprocess.Popen[bytes] | None = None) -> bool:
        """Up to `seconds`. Returns whether a signal to stop came; the child has it too then."""
        came = signal.sigtimedwait(_STOPPING, seconds)
        if came is None:
            return False
        self._stopped = True
        if child is not None and came.si_pid not in self._above:
            child.send_signal(came.si_signo)
        return True


def ancestors(pid: int) -> list[int]:
    """Parent, its parent and so on, of a process of this machine."""
    found: list[int] = []
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def _fate_shared() -> Callable[[], None]:
    """To be called in the child before it becomes the driver: dies with this process, takes signals again."""
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

    return prepare


def _say(text: str) -> None:
    sys.stderr.write(f"quorum: {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None, command: Sequence[str] | None = None) -> int:
    """Parse the command line and drive the run. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.jobs.supervisor")
    parser.add_argument("--run", type=Path, required=True, help="run directory, on storage that all nodes share")
    parser.add_argument("--name", default="", help="that `quorum resume` knows the run by")
    parser.add_argument("--retries", type=int, default=0, help="how often a driver that died is started again")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--resume", action="store_true", help="go on with the run if it was ever started")
    known.add_argument("--again", action="store_true", help="likewise, without the overrides of these same words")
    parser.add_argument("--set", action="append", default=[], help="override for a resumed run")
    parser.add_argument("words", nargs="*", help="CONFIG and overrides of `quorum train`")
    chosen = parser.parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    driver = command or (sys.executable, "-m", "orchestration", "train")
    supervisor = Supervisor(chosen.run, chosen.retries, driver, chosen.set, chosen.name)
    return supervisor.drive(chosen.words, resume=chosen.resume, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
