"""Calls on all ranks at once: bounded waits, progress, and naming the rank that fails.

When one rank fails the others may be stuck in a collective with it, so all are killed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from learner.rank import Progress
from quorum.errors import QuorumError, RankFailure

POLL_SECONDS = 2.0
"""How often the ranks are asked for progress while they work."""
MEANWHILE_SECONDS = 0.02
"""For the driver's other business between two looks at the ranks."""
GRACE_SECONDS = 5.0
"""How long the other ranks are heard after one failed: the one that died is the cause, not those it left waiting."""
PROBE_SECONDS = 10.0


class RankCalls:
    """The ranks' actor handles, in rank order."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self.processes: list[dict[str, Any]] = []
        """What each rank's `describe` said."""

    def progress(self) -> list[Progress | None]:
        """What each rank is doing; None for one that does not answer."""
        import ray

        refs = [actor.progress.options(concurrency_group="probe").remote() for actor in self.actors]
        answers: list[Progress | None] = []
        for ref in refs:
            try:
                answers.append(ray.get(ref, timeout=PROBE_SECONDS))
            except (ray.exceptions.RayError, TimeoutError):
                answers.append(None)
        return answers

    def kill(self) -> None:
        """End all ranks at once; they may be stuck in a collective."""
        import ray

        for actor in self.actors:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor, no_restart=True)
        self.actors = []

    def _one(self, rank: int, method: str, *args: Any, timeout: float, lane: str | None = None) -> Any:
        return self._collect([self._call(self.actors[rank], method, lane)(*args)], method, timeout)[0]

    def _all(self, method: str, *args: Any, phase: str, timeout: float, lane: str | None = None) -> list[Any]:
        return self._collect([self._call(actor, method, lane)(*args) for actor in self.actors], phase, timeout)

    @staticmethod
    def _call(actor: Any, method: str, lane: str | None) -> Callable[..., Any]:
        bound = getattr(actor, method)
        return (bound.options(concurrency_group=lane) if lane else bound).remote

    def _collect(
        self,
        refs: Sequence[Any],
        phase: str,
        seconds: float,
        on_progress: bool = False,
        meanwhile: Callable[[float], None] | None = None,
    ) -> list[Any]:
        """Results of all ranks, in rank order.

        Args:
            refs: one per rank (or a single one, of rank 0).
            phase: what the ranks are doing, for the error.
            seconds: the limit; with `on_progress` it starts again whenever a rank gets ahead.
            meanwhile: called again and again while the ranks work, with the seconds it may take.

        Raises:
            RankFailure: a rank died, failed or stalled. All ranks have been killed.
            QuorumError: a rank raised it on purpose; likewise.
        """
        import ray

        deadline, asked, seen, pending = time.monotonic() + seconds, time.monotonic(), None, list(refs)
        while pending:
            wait = min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))
            if meanwhile is not None:
                began = time.monotonic()
                meanwhile(min(wait, MEANWHILE_SECONDS))
                wait = max(0.0, began + min(wait, MEANWHILE_SECONDS) - time.monotonic())
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=wait)
            failed = [ref for ref in done if _error_of(ref)]
            if failed:
                raise self._failure(refs, phase)
            if pending and on_progress and time.monotonic() - asked >= POLL_SECONDS:
                asked = time.monotonic()
                if (now := self.progress()) != seen:
                    seen, deadline = now, time.monotonic() + seconds
            if pending and time.monotonic() >= deadline:
                late = [f"rank {i}" for i, ref in enumerate(refs) if ref in pending]
                doing = ", ".join(f"rank {i}: {p.phase if p else 'no answer'}" for i, p in enumerate(self.progress()))
                self.kill()
                raise RankFailure(
                    f"{' and '.join(late)} did not finish {phase}: no progress for {seconds:.0f} s ({doing}); "
                    "a setting of `deadlines` says how long to wait"
                )
        return [ray.get(ref, timeout=PROBE_SECONDS) for ref in refs]

    def _failure(self, refs: Sequence[Any], phase: str) -> QuorumError:
        """The error to raise after one rank failed: a death explains the others' errors. Kills all ranks."""
        import ray

        ray.wait(list(refs), num_returns=len(refs), timeout=GRACE_SECONDS)
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        errors = {i: error for i, ref in enumerate(refs) if ref in done and (error := _error_of(ref))}
        dead = {i: e for i, e in errors.items() if isinstance(e, ray.exceptions.RayActorError)}
        own = {i: e for i, e in errors.items() if isinstance(e, QuorumError)}
        self.kill()
        if dead:
            names = " and ".join(f"rank {i} (pid {self._pid(i)})" for i in dead)
            return RankFailure(f"learner {names} died during {phase}: {_first_line(next(iter(dead.values())))}")
        rank, error = next(iter((own or errors).items()))
        cause = getattr(error, "cause", error)
        if isinstance(cause, QuorumError):
            return cause
        return RankFailure(f"learner rank {rank} failed during {phase}: {type(cause).__name__}: {cause}")

    def _pid(self, rank: int) -> int | None:
        return self.processes[rank]["pid"] if rank < len(self.processes) else None


def _error_of(ref: Any) -> Exception | None:
    import ray

    try:
        ray.get(ref, timeout=PROBE_SECONDS)
    except (ray.exceptions.RayError, QuorumError) as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
