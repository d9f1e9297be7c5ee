"""Every way in which torch and Python run out of memory is one error; nothing else is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from learner.memory import out_of_memory_named  # noqa: E402
from quorum.errors import LearnerOutOfMemory  # noqa: E402


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
)
def test_running_out_of_memory_names_rank_and_step(error: Exception) -> None:
    with pytest.raises(LearnerOutOfMemory, match="rank 1 ran out of memory in the update of step 4") as caught:
        with out_of_memory_named(1, "the update of step 4"):
            raise error
    assert "\n" not in str(caught.value)


def test_a_real_refusal_of_the_host_allocator_is_recognised() -> None:
    with pytest.raises(LearnerOutOfMemory, match="rank 0"):
        with out_of_memory_named(0, "the update of step 0"):
            torch.empty(1 << 60, dtype=torch.uint8)


def test_another_error_passes_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        with out_of_memory_named(0, "the update of step 0"):
            raise RuntimeError("shapes do not match")
