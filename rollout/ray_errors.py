"""Ray's exceptions, translated once into Quorum's."""

from __future__ import annotations

from quorum.errors import EngineDied, QuorumError, StageError, StaleSamplerError


def translate(exc: BaseException, who: str, default: type[QuorumError]) -> QuorumError:
    """The error to raise for a Ray exception that a call to `who` ended with.

    A Quorum error that the actor raised keeps its class, with `who` in front where it does not name it; a dead actor
    or node becomes EngineDied; anything else becomes `default`.
    """
    cause = getattr(exc, "cause", None)
    if isinstance(cause, StaleSamplerError):
        return cause
    if isinstance(cause, StageError):
        return type(cause)(f"{who}: {cause}")
    if isinstance(cause, QuorumError):
        return cause
    if is_death(exc):
        return EngineDied(f"{who} is gone: {first_line(exc)}")
    return default(f"{who} failed: {first_line(cause or exc)}")


def is_death(exc: BaseException) -> bool:
    """Whether a call ended because its actor, its node or an object it needed is gone."""
    import ray

    gone = ray.exceptions.RayActorError | ray.exceptions.ObjectLostError | ray.exceptions.NodeDiedError
    return isinstance(exc, gone)


def first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
