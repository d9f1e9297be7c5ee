"""One transfer of one published version to some samplers: they join an epoch, receive, load; nobody is waited for here.

Who fails is named, and tells apart who is at fault: a death explains the errors of those it left waiting.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from learner.group import LearnerGroup
from learner.transfer_lane import WeightsOf
from quorum.errors import EngineDied, EngineTimeout, WeightSyncError
from quorum.types import TransferInit, WeightManifest, WeightReceipt, WeightUpdate
from rollout import ray_errors
from rollout.handle import SamplerHandle

REPLY_SECONDS = 20.0
"""For an answer to come back after the deadline that its call keeps itself."""
LEARNER = "learner"


@dataclass(frozen=True, slots=True)
class Channel:
    """A membership epoch: the learner and some samplers, in the order of their ranks."""

    epoch: int
    backend: str
    members: tuple[SamplerHandle, ...]

    @property
    def world_size(self) -> int:
        return 1 + sum(member.num_workers for member in self.members)


@dataclass
class Transfer:
    """The state of one transfer. `advance` moves it on; it is over when `is_over`.

    consumes: a published version.  waits for: joins, then receipts, each under its deadline.  unblocked by: samplers
    and ranks.  produces: `receipts`, and `errors` of whoever failed.
    """

    learner: LearnerGroup
    channel: Channel
    order: WeightUpdate
    of: WeightsOf
    join_seconds: float
    port: int = 0
    is_joined: bool = False
    """Whether the epoch is from an earlier transfer."""
    receipts: dict[SamplerHandle, WeightReceipt] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    """By sampler id, "learner" or "learner rank N"; a TimeoutError for who was late."""
    is_over: bool = False
    _pending: dict[str, Any] = field(default_factory=dict)
    _deadline: float = 0.0
    _phase: str = ""

    def begin(self) -> None:
        """Send out the first calls. Raises WeightSyncError, RankFailure of an epoch that could not be opened."""
        for member in self.channel.members:
            member.is_in_transfer = True
        if self.is_joined or self.channel.backend == "ipc":
            self._send()
        else:
            self._join()

    def advance(self, seconds: float) -> None:
        """Take in answers, for `seconds` at most."""
        import ray

        while not self.is_over:
            names = {ref: name for name, ref in self._pending.items()}
            left = max(0.0, min(seconds, self._deadline - time.monotonic()))
            done, _ = ray.wait(list(names), num_returns=1, timeout=left) if names else ([], [])
            for ref in done:
                self._take(names[ref], ref)
            if not done and time.monotonic() < self._deadline and self._pending:
                return
            if not done:
                self.errors |= {name: TimeoutError(self._late()) for name in self._pending}
                self._pending.clear()
            if not self._pending:
                self._next()

    def abandon(self) -> dict[str, Any]:
        """Give up; returns the calls that nobody waited for."""
        self._end()
        return self._pending

    def _late(self) -> str:
        return f"it did not {self._phase} in time (epoch {self.channel.epoch}, backend {self.channel.backend})"

    def _take(self, name: str, ref: Any) -> None:
        import ray

        del self._pending[name]
        try:
            value = ray.get(ref, timeout=REPLY_SECONDS)
        except ray.exceptions.RayError as exc:
            self.errors[name] = exc
            return
        if isinstance(value, WeightReceipt):
            member = next(member for member in self.channel.members if member.sampler_id == name)
            self.receipts[member] = value

    def _next(self) -> None:
        if self._phase == "join" and not self.errors:
            self._send()
        else:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        for member in self.channel.members:
            member.is_in_transfer = False

    def _join(self) -> None:
        self._phase, channel = "join", self.channel
        self._deadline = time.monotonic() + self.join_seconds + REPLY_SECONDS
        host, port = self.learner.open_transfer(channel.backend, channel.epoch, channel.world_size, self.port)

        def init(rank: int) -> TransferInit:
            return TransferInit(
                backend=channel.backend,
                epoch=channel.epoch,
                host=host,
                port=port,
                world_size=channel.world_size,
                rank_offset=rank,
                timeout_seconds=self.join_seconds,
            )

        rank = 1
        for member in channel.members:
            self._pending[member.sampler_id] = member.actor.join_transfer.remote(init(rank))
            rank += member.num_workers
        self._pending[LEARNER] = self.learner.join_transfer(init(0))

    def _send(self) -> None:
        self._phase = f"take version {self.order.manifest.version}"
        # Each bucket has its deadline, and who is late says so itself; this is only the end of all patience.
        seconds = self.order.timeout_seconds * max(1, len(self.order.manifest.buckets))
        self._deadline = time.monotonic() + seconds + REPLY_SECONDS
        for member in self.channel.members:
            self._pending[member.sampler_id] = member.actor.update_weights.remote(self.order)
        if self.channel.backend == "ipc":
            return
        version, limit = self.order.manifest.version, self.order.timeout_seconds
        for rank, ref in enumerate(self.learner.send(version, self.channel.epoch, limit, self.of)):
            self._pending[f"learner rank {rank}"] = ref


def check_receipt(receipt: WeightReceipt, manifest: WeightManifest, sent: Mapping[str, str] | None) -> None:
    """Raise WeightSyncError where a sampler loaded something else than was sent."""
    if receipt.version != manifest.version:
        raise WeightSyncError(
            f"sampler {receipt.sampler_id} reports version {receipt.version} after the transfer of {manifest.version}"
        )
    if sent is None:
        return
    different = [meta.name for meta in manifest.tensors if receipt.checksums.get(meta.name) != sent[meta.name]]
    if different:
        raise WeightSyncError(
            f"sampler {receipt.sampler_id} received other bytes than the learner sent for {len(different)} of "
            f"{len(manifest.tensors)} tensors, first {different[0]}"
        )


def faults(transfer: Transfer) -> dict[SamplerHandle, str]:
    """Members that are lost: dead, with a dead engine, or late. Others failed with them."""
    found = {}
    for member in transfer.channel.members:
        error = transfer.errors.get(member.sampler_id)
        cause = getattr(error, "cause", None)
        if error is not None and (is_death(error) or isinstance(cause, EngineDied | EngineTimeout)):
            found[member] = cause_of(error)
    return found


def is_death(error: BaseException) -> bool:
    """Whether a call ended without an answer: its actor is gone, or was late."""
    return isinstance(error, TimeoutError) or ray_errors.is_death(error)


def learner_errors(transfer: Transfer) -> dict[str, BaseException]:
    """What the learner's side said, by rank."""
    return {name: error for name, error in transfer.errors.items() if name.startswith(LEARNER)}


def cause_of(exc: BaseException) -> str:
    """The last line of an error: with Ray, the one that says what happened."""
    lines = [line for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(exc).__name__


def by_backend(members: Sequence[SamplerHandle]) -> dict[str, tuple[SamplerHandle, ...]]:
    """Samplers by the transport that their engine receives with."""
    found: dict[str, list[SamplerHandle]] = {}
    for member in members:
        found.setdefault(member.settings.weight_backend, []).append(member)
    return {backend: tuple(group) for backend, group in found.items()}
