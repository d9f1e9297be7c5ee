"""What becomes of a group that could not be made durable."""

from __future__ import annotations

import pytest

from orchestration.rollout_phase import append_error, is_lost
from quorum.errors import StorageError

exceptions = pytest.importorskip("ray.exceptions")


def failed_call(cause: Exception) -> Exception:
    """What a call that raised `cause` ends with."""
    made: Exception = exceptions.RayTaskError("append", "the traceback", cause).as_instanceof_cause()
    return made


def test_an_object_that_went_with_its_node_is_drawn_again() -> None:
    for kind in (exceptions.ObjectLostError, exceptions.OwnerDiedError, exceptions.ObjectReconstructionFailedError):
        assert is_lost(kind("ab" * 28, None, ""))
        assert is_lost(failed_call(kind("ab" * 28, None, "")))


def test_a_full_disk_and_a_dead_writer_are_told_as_what_they_are() -> None:
    full = failed_call(StorageError("disk full"))
    assert not is_lost(full)
    assert str(append_error(full)) == "disk full"
    dead = exceptions.ActorDiedError()
    assert not is_lost(dead)
    assert str(append_error(dead)).startswith("could not append to the durable log: ")
