"""One sampler as the driver sees it: its state, what it runs, and when it last gave a sign of life."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from quorum.types import GroupRequest, Receipt
from rollout.settings import NO_VERSION, SamplerInfo, SamplerSettings


class SamplerState(StrEnum):
    """STARTING -> STALE -> READY -> SUSPECT -> DEAD, or DRAINING -> RETIRED.

    STALE becomes READY through weight sync alone; SUSPECT becomes READY again with the next sign of life.
    """

    STARTING = "starting"
    STALE = "stale"
    READY = "ready"
    SUSPECT = "suspect"
    DRAINING = "draining"
    DEAD = "dead"
    RETIRED = "retired"


MEAN_WEIGHT = 0.1
"""Of the newest group in running means."""
ALIVE = (SamplerState.STALE, SamplerState.READY, SamplerState.SUSPECT)
"""Started, and part of the run's strength."""


@dataclass(slots=True)
class Work:
    """A group, or a part of one, on its way through the pool."""

    request: GroupRequest
    expected_tokens: float = 0.0
    order: tuple[float, float, int] = (0.0, 0.0, 0)
    """Lower goes first."""
    losses: int = 0
    """Samplers lost while it ran on them."""
    losses_alone: int = 0
    """Of these, those that it had to itself."""
    refusals: int = 0

    @property
    def num_completions(self) -> int:
        return len(self.request.drawn)


@dataclass(slots=True)
class Call:
    """One group running on one sampler."""

    work: Work
    receipt_ref: Any
    group_ref: Any


@dataclass(slots=True, eq=False)
class SamplerHandle:
    """A sampler of one slot; its replacement is another handle."""

    slot: int
    settings: SamplerSettings
    actor: Any
    state: SamplerState = SamplerState.STARTING
    info: SamplerInfo | None = None
    """None until it has started."""
    version: int = NO_VERSION
    """Policy version it holds."""
    calls: dict[int, Call] = field(default_factory=dict)
    """By call number."""
    load: float = 0.0
    """Expected tokens of what it runs."""
    num_completions: int = 0
    """Running."""
    entry: int = -1
    """Its place among the least loaded."""
    reserved_for: Work | None = None
    """A suspect that is to run here alone; nothing else is handed out."""
    is_in_transfer: bool = False
    """Weights are on their way: the transfer has its own deadline."""
    failed_transfers: int = 0
    """In a row."""
    num_finished: int = 0
    seconds_per_token: float = 0.0
    """Of its groups, running mean: wall time over the mean length of their completions."""
    is_slow: bool = False
    """Whether the operator has been told that it is a straggler."""
    since: float = field(default_factory=time.monotonic)
    """When the state began."""
    last_sign: float = 0.0
    """Of progress while it runs groups, of an answer while it idles."""
    tokens_seen: int = -1
    probe: int | None = None
    """Number of the probe that is out."""
    probed_at: float = 0.0
    asked_since: float | None = None
    """When the first probe after the last sign went out."""
    busy_since: float | None = None
    busy_seconds: float = 0.0

    @property
    def sampler_id(self) -> str:
        return self.settings.sampler_id

    @property
    def num_workers(self) -> int:
        """Receivers of a weight transfer."""
        return self.settings.tensor_parallel_size

    @property
    def pids(self) -> tuple[int, ...]:
        return self.info.pids if self.info is not None else ()

    @property
    def is_idle(self) -> bool:
        return not self.calls

    def enter(self, state: SamplerState) -> None:
        self.state, self.since = state, time.monotonic()

    def note_sign(self) -> None:
        """It works: a token, a finished group, an answer."""
        self.last_sign, self.asked_since = time.monotonic(), None
        if self.state is SamplerState.SUSPECT:
            self.enter(SamplerState.READY)

    def add(self, number: int, call: Call) -> None:
        """A group starts here."""
        if not self.calls:
            self.note_sign()
            self.busy_since = self.last_sign
        self.calls[number] = call
        self.load += call.work.expected_tokens
        self.num_completions += call.work.num_completions

    def remove(self, number: int) -> Call:
        """A group is finished, or taken away."""
        call = self.calls.pop(number)
        self.load -= call.work.expected_tokens
        self.num_completions -= call.work.num_completions
        if not self.calls:
            self.load = 0.0
            self._end_busy()
        return call

    def note_finished(self, receipt: Receipt) -> None:
        """A group came back whole."""
        self.num_finished += 1
        length = receipt.num_tokens / max(1, sum(receipt.finish_counts.values()))
        speed = receipt.seconds / max(1.0, length)
        share = 1 / min(self.num_finished, 1 / MEAN_WEIGHT)
        self.seconds_per_token += share * (speed - self.seconds_per_token)
        self.note_sign()

    def take_busy_seconds(self) -> float:
        """Seconds with work since the last call."""
        is_busy = self.busy_since is not None
        self._end_busy()
        if is_busy:
            self.busy_since = time.monotonic()
        seconds, self.busy_seconds = self.busy_seconds, 0.0
        return seconds

    def _end_busy(self) -> None:
        if self.busy_since is not None:
            self.busy_seconds += time.monotonic() - self.busy_since
            self.busy_since = None

    def group_ids(self) -> str:
        return ", ".join(str(call.work.request.key.group_id) for call in self.calls.values()) or "none"

    def describe(self) -> str:
        """A line for the operator."""
        pid = f" (pid {self.info.pid})" if self.info is not None else ""
        doing = f"{self.sampler_id}{pid}: {self.state}, groups {self.group_ids()}"
        return doing + (f", last progress {time.monotonic() - self.last_sign:.0f} s ago" if self.calls else "")
