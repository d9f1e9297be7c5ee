"""Learner ranks in plain processes, whose memory is measured while they take a step.

What a rank holds between two steps is the sum of the storages of all its tensors, each counted once. What a step adds
is read from torch's allocator: the profiler records every allocation and release, and the largest running sum is the
peak. Both count the bytes of tensors, not pages, so that imports and fragmentation play no part.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema import RunConfig
from learner.rank import Rank, RankSettings
from quorum.errors import StageError
from quorum.types import ScoredGroup

SECONDS = 120.0
END_SECONDS = 5.0
"""For a rank to end by itself, and once more after it was killed."""
PRELOAD = (
    "torch",
    "torch.profiler",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.auto.modeling_auto",
    "deepspeed",
    "learner.update",
    "learner.transfer",
    "learner.policy",
)
FLAT_BUCKET = 500_000_000
"""Elements of DeepSpeed's reduction bucket, which it takes whole whatever the model's size. Left out here and in the
prediction that is compared: on models of a CPU's size it would be nearly all, and any error nearly nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one rank."""

    held: int
    """Between two steps."""
    peak: int
    """At most during a step, with what is held."""
    buckets: int
    """Of reduction buckets, left out of both."""


class MeasuredRank(Rank):
    """A rank that measures itself."""

    def measured_step(self, orders: Any, groups: Mapping[int, ScoredGroup]) -> Measured:
        """Take a step and say what it needed. A collective."""
        from torch.profiler import ProfilerActivity, profile

        held = _storages()
        buckets = {size for size in held.values() if _is_bucket(size)}
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            self.step(orders, groups)
        events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        at, most = 0, 0
        for event in events:
            if _is_bucket(abs(event.nbytes())):
                buckets.add(abs(event.nbytes()))
                continue
            at += event.nbytes()
            most = max(most, at)
        rest = sum(size for size in held.values() if not _is_bucket(size))
        return Measured(held=rest, peak=rest + most, buckets=sum(buckets))


def _storages() -> dict[int, int]:
    """Bytes of every storage that any tensor of this process uses, by address."""
    import torch

    gc.collect()
    found: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn of being looked at
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    found.pop(0, None)
    return found


def _is_bucket(num_bytes: int) -> bool:
    return num_bytes in (2 * FLAT_BUCKET, 4 * FLAT_BUCKET)


def measure(config: RunConfig, orders: Sequence[Any], groups: Mapping[int, ScoredGroup]) -> list[Measured]:
    """Start the ranks, take a step that makes the optimizer's state, and measure a second one.

    Args:
        config: of the run; as many ranks as it says.
        orders: [ranks] of the step.
        groups: by position in the batch.

    Raises:
        StageError: a rank failed, or did not answer in time.
    """
    context = _context()
    pipes, processes = [], []
    try:
        for rank in range(config.learner.num_ranks):
            ours, theirs = context.Pipe()
            settings = RankSettings(config, rank, config.learner.num_ranks, "cpu", True)
            process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        address = _all(pipes[:1], "open_rendezvous", [()])[0]
        _all(pipes, "start", [address] * len(pipes))
        each = [(order, groups) for order in orders]
        _all(pipes, "step", each)
        return _all(pipes, "measured_step", each)
    finally:
        for pipe in pipes:
            pipe.close()  # ranks end by themselves, and take their semaphores with them
        for process in processes:
            process.join(END_SECONDS)
            process.kill()
            process.join(END_SECONDS)


def _context() -> Any:
    """A fork server that has imported what ranks need, made on first use."""
    os.environ.update(DS_ACCELERATOR="cpu", TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def _serve(pipe: Any, settings: RankSettings) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars and warnings; what fails is sent to the parent
    rank = MeasuredRank(settings)
    while pipe.poll(SECONDS):
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(rank, method)(*args)))
        except Exception as error:  # noqa: BLE001 - handed to the parent, which raises it
            pipe.send((False, f"{type(error).__name__}: {error}"))


def _all(pipes: Sequence[Any], method: str, each: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Every rank's answer to one call."""
    for pipe, args in zip(pipes, each, strict=True):
        pipe.send((method, args))
    answers = []
    for rank, pipe in enumerate(pipes):
        if not pipe.poll(SECONDS):
            raise StageError(f"learner rank {rank} did not answer {method} within {SECONDS:.0f} s")
        succeeded, value = pipe.recv()
        if not succeeded:
            raise StageError(f"learner rank {rank} failed in {method}: {value}")
        answers.append(value)
    return answers
