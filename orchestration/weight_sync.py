"""Weight sync: a published version reaches every sampler, whoever dies meanwhile; who joins gets it beside the run.

Only this file advances a policy version. Order of one publish: the learner takes an immutable snapshot; each sampler
gets one call and pauses, receives, loads and resumes inside its actor, while the learner sends bucket by bucket;
checksums of both sides are compared; only then the sampler may work on. Who is lost on the way is replaced, and the
others, whose group has broken, form a new one and receive again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from configs.schema import RunConfig
from learner.group import LearnerGroup
from learner.transfer_lane import WeightsOf
from orchestration.weight_transfer import (
    Channel,
    Transfer,
    by_backend,
    cause_of,
    check_receipt,
    faults,
    is_death,
    learner_errors,
)
from quorum.errors import RankFailure, WeightSyncError
from quorum.types import WeightManifest, WeightReceipt, WeightUpdate
from quorum.wire import bucket_bytes
from rollout.handle import SamplerHandle, SamplerState
from rollout.pool import SamplerPool

MAX_FAILED_TRANSFERS = 3
"""In a row of one sampler; then it is replaced."""
MAX_BARREN_ROUNDS = 3
"""Transfers in a row that nobody came out of well and nobody was lost in."""
TEACHER_EPOCHS = 1 << 20
"""Epochs of the average's receivers start here: the learner tells them from the policy's by their number."""
_POLL_SECONDS = 0.5
_HERE_SECONDS = 0.1
"""For an answer that has come, or is late."""


def resolve_backend(config: RunConfig, device: str, of: WeightsOf = "policy") -> str:
    """gloo between CPUs, nccl between GPUs, ipc on a shared GPU, unless the configuration names one. A teacher never
    shares a GPU."""
    named = config.sync.backend
    if named != "auto" and not (named == "ipc" and of == "average"):
        return named
    if device == "cpu":
        return "gloo"
    return "ipc" if config.cluster.colocate and of == "policy" else "nccl"


@dataclass(frozen=True, slots=True)
class SyncStats:
    """One publish, measured."""

    version: int
    seconds: float
    num_bytes: int
    num_checked_tensors: int
    """Tensors whose checksum was compared, over all samplers."""


class NoTransfer:
    """Stands for WeightSync where either samplers or learner are missing: versions count, and no weights travel."""

    is_joining = False

    def __init__(self) -> None:
        self.version = -1

    def publish(self, version: int) -> None:
        """The learner's weights are `version` now; nobody is given them."""
        self.version = version

    def catch_up(self, *, may_begin: bool = True) -> None:
        """Nobody is behind."""

    def finish_joining(self) -> None:
        """Nobody joins."""

    def settle(self) -> None:
        """Nobody waits."""


class WeightSync:
    """Holds the current version and the membership epochs."""

    def __init__(
        self, config: RunConfig, learner: LearnerGroup, pool: SamplerPool, incarnation: int, of: WeightsOf = "policy"
    ) -> None:
        """Bind the parts; whatever the samplers hold is of no worth any more.

        Args:
            config: of the run.
            learner: publishes and sends.
            pool: all its samplers receive.
            incarnation: of the learner.
            of: whose weights: the policy's, or its moving average's for a teacher.
        """
        self._config, self._learner, self._pool = config, learner, pool
        self._incarnation, self._of = incarnation, of
        self.version = -1
        """Version that every sampler holds that works; -1 before the first publish."""
        self._epoch = 0 if of == "policy" else TEACHER_EPOCHS
        self._channels: dict[str, Channel] = {}
        """By backend: the epoch of the last publish, while all its members are well."""
        self._num_published = 0
        self._manifest: WeightManifest | None = None
        self._sent: tuple[int, Mapping[str, str]] | None = None
        """Version and checksums of what was sent last."""
        self._joining: Transfer | None = None
        self._pending: dict[str, Any] = {}
        """Calls that nobody waited for."""
        for sampler in pool.alive:
            pool.mark_stale(sampler)

    def publish(self, version: int) -> SyncStats:
        """Give every sampler the learner's current weights as `version`.

        Raises:
            RankFailure: a learner rank died; all have been killed.
            WeightSyncError: the learner could not send them, or nobody could take them.
        """
        with self._blaming_dead_ranks():
            return self._publish(version)

    @property
    def is_joining(self) -> bool:
        """Whether newcomers are being given the current weights."""
        return self._joining is not None

    def catch_up(self, *, may_begin: bool = True) -> None:
        """Move on with giving new samplers the current weights, while the others work. Waits for nothing.

        Args:
            may_begin: False: only go on with what has begun; the ranks send to one group at a time.

        Raises:
            RankFailure: a learner rank died; all have been killed.
        """
        with self._blaming_dead_ranks():
            if self._joining is not None:
                self._move_joining(0.0)
            elif may_begin and self._manifest is not None and (stale := self._stale()):
                backend, members = next(iter(by_backend(stale).items()))
                self._leave_channels(members)
                port = self._config.sync.port + 1 if self._config.sync.port else 0
                self._joining = self._transfer(self._new_channel(backend, members), self._manifest, port)
                self._joining.begin()

    def settle(self) -> None:
        """After the ranks' end: wait until no sampler waits for them. Raises WeightSyncError naming who still does."""
        import ray

        if self._joining is not None:
            self._pending |= self._joining.abandon()
            self._joining = None
        timeout = self._config.deadlines.sync_seconds
        refs = list(self._pending.values())
        late = ray.wait(refs, num_returns=len(refs), timeout=timeout)[1] if refs else []
        names = sorted(name for name, ref in self._pending.items() if ref in late)
        if names:
            raise WeightSyncError(
                f"{', '.join(names)} still wait for the weights of a learner that ended {timeout:.0f} s ago "
                "(deadlines.sync_seconds)"
            )

    @contextmanager
    def _blaming_dead_ranks(self) -> Iterator[None]:
        """A transfer that failed because a rank died is the learner's failure, whoever noticed it first."""
        try:
            yield
        except WeightSyncError as error:
            silent = [f"rank {rank}" for rank, progress in enumerate(self._learner.progress()) if progress is None]
            if not silent:
                raise
            self._learner.kill()
            raise RankFailure(f"learner {' and '.join(silent)} died or hangs in weight sync: {error}") from error

    def _publish(self, version: int) -> SyncStats:
        started = time.monotonic()
        self.finish_joining()
        self._manifest = manifest = self._learner.publish(version, self._incarnation, self._of)
        self.version = version
        self._num_published += 1
        self._pool.retire_leaving()
        receipts: list[WeightReceipt] = []
        barren = 0
        while behind := [sampler for sampler in self._pool.alive if sampler.version != version]:
            num_alive, num_receipts = len(self._pool.alive), len(receipts)
            # After a round that nobody was lost in, one that cannot load must not fail the others again.
            groups = [[one] for one in behind] if barren else [list(group) for group in by_backend(behind).values()]
            for group in groups:
                members = tuple(one for one in group if one in self._pool.alive)
                if members:
                    receipts += self._send_to(members[0].settings.weight_backend, members, manifest)
            is_barren = len(self._pool.alive) == num_alive and len(receipts) == num_receipts
            barren = barren + 1 if is_barren else 0
            if barren >= MAX_BARREN_ROUNDS:
                why = "; ".join(self._pool.take_events())
                raise WeightSyncError(f"no sampler could take version {version} in {barren} transfers: {why}")
        self._pool.roster.excuse()
        is_verified = self._is_verified()
        return SyncStats(
            version=version,
            seconds=time.monotonic() - started,
            num_bytes=bucket_bytes(manifest.tensors),
            num_checked_tensors=len(receipts) * len(manifest.tensors) if is_verified else 0,
        )

    def finish_joining(self) -> None:
        """Wait for a transfer to newcomers: before the next version goes out, and before engines are put to sleep."""
        while self._joining is not None:
            self._move_joining(_POLL_SECONDS)

    def _move_joining(self, seconds: float) -> None:
        assert self._joining is not None
        self._joining.advance(seconds)
        if self._joining.is_over:
            transfer, self._joining = self._joining, None
            self._conclude(transfer)
            self._close(transfer.channel)

    def _send_to(
        self, backend: str, members: tuple[SamplerHandle, ...], manifest: WeightManifest
    ) -> list[WeightReceipt]:
        """One round: the receipts of those it went well for. The others are lost, or stay behind."""
        channel = self._channels.get(backend)
        is_joined = channel is not None and channel.members == members
        if channel is None or not is_joined:
            if channel is not None:
                self._close(channel)
            channel = self._new_channel(backend, members)
        transfer = self._transfer(channel, manifest, self._config.sync.port, is_joined)
        transfer.begin()
        while not transfer.is_over:
            transfer.advance(_POLL_SECONDS)
        receipts = self._conclude(transfer)
        if transfer.errors:
            self._close(channel)
            self._channels.pop(backend, None)
        else:
            self._channels[backend] = channel
        return receipts

    def _new_channel(self, backend: str, members: tuple[SamplerHandle, ...]) -> Channel:
        self._epoch += 1
        return Channel(self._epoch, backend, members)

    def _transfer(self, channel: Channel, manifest: WeightManifest, port: int, is_joined: bool = False) -> Transfer:
        section, is_shared = self._config.sync, channel.backend == "ipc"
        payload = {"handles": self._learner.share_ipc(manifest.version)} if is_shared else {}
        order = WeightUpdate(
            manifest=manifest,
            epoch=channel.epoch,
            verify=self._is_verified(),
            timeout_seconds=self._config.deadlines.sync_seconds,
            keeps_requests=self._config.rollout.max_off_policy_steps > 0,
            kv_cache=section.kv_cache,
            payload=payload,
        )
        port = port if self._of == "policy" else 0
        return Transfer(self._learner, channel, order, self._of, section.join_seconds, port, is_joined)

    def _is_verified(self) -> bool:
        every = self._config.sync.verify_every
        return bool(every) and (self._num_published - 1) % every == 0

    def _conclude(self, transfer: Transfer) -> list[WeightReceipt]:
        """Samplers that have the version may work; those at fault are lost; the rest stays behind for another round.

        Raises:
            WeightSyncError: the learner failed and no sampler is to blame, or wrong bytes arrived.
        """
        manifest, pool = transfer.order.manifest, self._pool
        lost, ours = faults(transfer), learner_errors(transfer)
        if transfer.errors and not lost:
            lost = self._unresponsive([m for m in transfer.channel.members if m not in transfer.receipts])
        is_only_ours = len(transfer.errors) == len(ours) and not lost
        if ours and (is_only_ours or any(is_death(error) for error in ours.values())):
            name, error = next(iter(ours.items()))
            raise WeightSyncError(f"{name} failed in the transfer of version {manifest.version}: {cause_of(error)}")
        sent = self._checksums(manifest.version) if transfer.order.verify and transfer.receipts else None
        if transfer.channel.backend == "ipc":
            self._learner.clear_ipc()
        for member, receipt in transfer.receipts.items():
            check_receipt(receipt, manifest, sent)
            pool.mark_ready(member, manifest.version)
        for member, reason in lost.items():
            pool.roster.lose(member, f"in the transfer of version {manifest.version}: {reason}")
        self._note_failures(transfer)
        return list(transfer.receipts.values())

    def _unresponsive(self, members: Sequence[SamplerHandle]) -> dict[SamplerHandle, str]:
        """Of members that failed, those whose engine does not answer."""
        import ray

        seconds = self._config.deadlines.probe_seconds
        refs = {member: member.actor.check.remote(seconds) for member in members}
        if refs:
            ray.wait(list(refs.values()), num_returns=len(refs), timeout=2 * seconds)
        found = {}
        for member, ref in refs.items():
            try:
                ray.get(ref, timeout=_HERE_SECONDS)
            except ray.exceptions.GetTimeoutError:
                found[member] = f"it does not answer within {2 * seconds:g} s"
            except ray.exceptions.RayError as exc:
                found[member] = cause_of(exc)
        return found

    def _checksums(self, version: int) -> Mapping[str, str]:
        """Of the bytes that the learner sends, worked out once per version."""
        if self._sent is None or self._sent[0] != version:
            self._sent = version, self._learner.checksums(version, self._of)
        return self._sent[1]

    def _note_failures(self, transfer: Transfer) -> None:
        """Members that failed and live: they hold nothing now, and may try again."""
        for member in transfer.channel.members:
            if member in transfer.receipts or member.state in (SamplerState.DEAD, SamplerState.RETIRED):
                continue
            self._pool.mark_stale(member)
            member.failed_transfers += 1
            error = transfer.errors.get(member.sampler_id)
            if error is not None and member.failed_transfers >= MAX_FAILED_TRANSFERS:
                self._pool.roster.lose(member, f"it failed {member.failed_transfers} transfers: {cause_of(error)}")

    def _close(self, channel: Channel) -> None:
        if channel.backend != "ipc":
            self._learner.close_transfer(channel.epoch)

    def _leave_channels(self, members: Sequence[SamplerHandle]) -> None:
        """Epochs of these samplers are not used again: joining another one they leave them."""
        for backend, channel in list(self._channels.items()):
            if set(channel.members) & set(members):
                self._close(channel)
                del self._channels[backend]

    def _stale(self) -> Sequence[SamplerHandle]:
        return self._pool.roster.in_state(SamplerState.STALE)
