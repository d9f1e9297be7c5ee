"""Running out of memory, told apart from other failures: it has a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quorum.errors import LearnerOutOfMemory

_HOST_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"
"""torch raises a plain RuntimeError when the host's memory is used up."""


@contextmanager
def out_of_memory_named(rank: int, doing: str) -> Iterator[None]:
    """Turn any way in which a rank runs out of memory into one error.

    Args:
        rank: of the process.
        doing: what for the error: "the update of step 7".

    Raises:
        LearnerOutOfMemory: names the rank and what it did.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_out = isinstance(error, torch.OutOfMemoryError | MemoryError) or _HOST_ALLOCATOR in str(error)
        if not is_out:
            raise
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LearnerOutOfMemory(f"learner rank {rank} ran out of memory in {doing}: {what}") from error
