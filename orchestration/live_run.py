"""A client of a live run: finds its Ray, gets let in, and talks to its control actor. Every wait is bounded."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestration.control import ACTOR_NAME, CALL_SECONDS, Answer
from orchestration.run_dir import RunInfo, is_driven, read_info
from quorum.deadline import run_within
from quorum.errors import ConfigError, ResourceError

REACH_SECONDS, CONNECT_SECONDS = 5.0, 30.0
"""For the port to be open, and for Ray to let the client in."""
RETRY_SECONDS = 0.5


class RunControl:
    """A client's side of a live run. Every call is bounded."""

    def __init__(self, run: Path, actor: Any) -> None:
        self._run, self._actor = run, actor

    def scale(self, num_samplers: int) -> Answer:
        """See `Control.scale`. Raises ResourceError when the run does not answer."""
        answer: Answer = self._ask(lambda: self._actor.scale.remote(num_samplers))
        return answer

    def status(self) -> dict[str, Any]:
        """See `Control.status`. Raises ResourceError when the run does not answer."""
        status: dict[str, Any] = self._ask(lambda: self._actor.status.remote())
        return status

    def _ask(self, call: Callable[[], Any]) -> Any:
        """The answer to a call, which is made again when the actor is just being restarted."""
        import ray

        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                return ray.get(call(), timeout=max(0.1, deadline - time.monotonic()))
            except ray.exceptions.ActorUnavailableError as exc:
                if time.monotonic() > deadline:
                    raise self._silent(exc) from exc
                time.sleep(RETRY_SECONDS)
            except ray.exceptions.RayError as exc:
                raise self._silent(exc) from exc

    def _silent(self, exc: Exception) -> ResourceError:
        return ResourceError(
            f"run {self._run} did not answer in {CALL_SECONDS:g} s ({type(exc).__name__}): {_how_it_stands(self._run)}"
        )


@contextmanager
def connected(run: Path) -> Iterator[RunControl]:
    """Connect to the live run in a directory, with Ray's token where there is one.

    Raises:
        ConfigError: the run is not running; says how it stands.
        ResourceError: its Ray or its control actor is not reached; says what to do.
    """
    info = read_info(run)
    if info.state != "running" or not is_driven(run):
        raise ConfigError(f"run {run} cannot be changed: {_how_it_stands(run)}")
    _reach(run, info)
    use_token()
    import ray

    try:
        try:
            run_within(CONNECT_SECONDS, lambda: _join(info), "connecting")
        except TimeoutError as exc:
            raise ResourceError(f"Ray of run {run} at {info.address} did not answer: {exc}") from exc
        try:
            actor = ray.get_actor(ACTOR_NAME, namespace=info.namespace)
        except ValueError as exc:
            raise ResourceError(
                f"run {run} takes no orders now: it is still starting, or about to end (step and state: `quorum top "
                f"{run} --once`); if it goes on, try again in a minute"
            ) from exc
        yield RunControl(run, actor)
    finally:
        ray.shutdown()


def _how_it_stands(run: Path) -> str:
    info = read_info(run)
    if info.state == "running" and is_driven(run):
        return "its driver is alive but slow to answer: try again, or look at its output"
    ended = f"it is {info.state}" if info.state != "running" else "its driver is gone (killed)"
    more = "" if info.state == "done" else f"; `{info.way_on(run)}` goes on, with rollout.num_samplers=N if wanted"
    return ended + more


def _reach(run: Path, info: RunInfo) -> None:
    """Whether anybody listens: Ray itself would try for a long time."""
    host, _, port = info.address.rpartition(":")
    if not port.isdigit():
        raise ResourceError(
            f"run {run} is still starting: the address of its Ray is not known yet ({info.address}); try again in a "
            "minute"
        )
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as exc:
        raise ResourceError(
            f"Ray of run {run} is not reached at {info.address} ({exc}); call from a machine that reaches that port, "
            "or from the driver's own"
        ) from exc


def use_token() -> None:
    """Ray asks for its token by default, but a client sends it only when told to."""
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token"]
    if os.environ.get("RAY_AUTH_TOKEN") or any(path and Path(path).is_file() for path in paths):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _join(info: RunInfo) -> None:
    import ray

    try:
        ray.init(address=info.address, namespace=info.namespace, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as exc:
        first = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise ResourceError(
            f"Ray at {info.address} does not let this process in: {first}; with token authentication set "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the driver's (by default ~/.ray/auth_token of its user)"
        ) from exc
