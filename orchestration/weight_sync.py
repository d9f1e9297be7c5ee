"""Weight sync: every published version reaches every sampler, or the step fails by name.

Only this file advances a policy version. Order of one publish: the learner takes an immutable snapshot; each
sampler gets one call and pauses, receives, loads and resumes inside its actor, while the learner sends bucket
by bucket; checksums of both sides are compared; only then the new version counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from learner.group import LearnerGroup
from learner.transfer_lane import WeightsOf
from quorum.errors import RankFailure, WeightSyncError
from quorum.types import TransferInit, WeightManifest, WeightReceipt, WeightUpdate
from quorum.wire import bucket_bytes
from rollout.pool import SamplerPool

GRACE_SECONDS = 3.0
"""How long the others are heard after one failed."""


TEACHER_EPOCHS = 1 << 20
"""Epochs of the average's receivers start here: the learner tells them from the policy's by their number."""


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
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    """Slowest sampler per phase."""


class NoTransfer:
    """Stands for WeightSync where either samplers or learner are missing: versions count, and no weights travel."""

    def __init__(self) -> None:
        self.version = -1

    def connect(self) -> None:
        """Nobody to connect."""

    def publish(self, version: int) -> None:
        """The learner's weights are `version` now; nobody is given them."""
        self.version = version

    def settle(self) -> None:
        """Nobody waits."""


class WeightSync:
    """Holds the current version and the membership epoch."""

    def __init__(
        self,
        config: RunConfig,
        device: str,
        learner: LearnerGroup,
        pool: SamplerPool,
        incarnation: int,
        of: WeightsOf = "policy",
    ) -> None:
        """Bind the parts.

        Args:
            config: of the run.
            device: "cpu" or "cuda".
            learner: publishes and sends.
            pool: all its samplers receive.
            incarnation: of the learner.
            of: whose weights: the policy's, or its moving average's for a teacher.
        """
        self._config, self._learner, self._pool = config, learner, pool
        self._incarnation, self._of = incarnation, of
        self.backend = resolve_backend(config, device, of)
        self.version = -1
        """Version that every sampler holds; -1 before the first publish."""
        self._epoch = 0 if of == "policy" else TEACHER_EPOCHS
        self._num_published = 0
        self._pending: dict[str, Any] = {}
        """Calls that a failed collection did not wait for."""

    def connect(self) -> None:
        """Start a membership epoch: learner and all samplers join one transfer group.

        Raises:
            RankFailure: a learner rank died; all have been killed.
            WeightSyncError: somebody else could not join.
        """
        with self._blaming_dead_ranks():
            self._connect()

    def _connect(self) -> None:
        timeout = self._config.deadlines.sync_seconds
        self._epoch += 1
        world_size = 1 + self._pool.num_workers
        host, port = "", self._config.sync.port if self._of == "policy" else 0
        if self.backend != "ipc":
            host, port = self._learner.open_transfer(self.backend, self._epoch, world_size, port)

        def init(rank: int) -> TransferInit:
            return TransferInit(
                backend=self.backend,
                epoch=self._epoch,
                host=host,
                port=port,
                world_size=world_size,
                rank_offset=rank,
                timeout_seconds=timeout,
            )

        refs, rank = {}, 1
        for sampler in self._pool.samplers:
            refs[sampler.sampler_id] = sampler.actor.join_transfer.remote(init(rank))
            rank += self._config.rollout.tensor_parallel_size
        if self.backend != "ipc":
            refs["learner"] = self._learner.join_transfer(init(0))
        self._collect(refs, "join the transfer group", timeout)

    def publish(self, version: int) -> SyncStats:
        """Give every sampler the learner's current weights as `version`.

        Raises:
            RankFailure: a learner rank died; all have been killed.
            WeightSyncError: a sampler did not take them.
        """
        with self._blaming_dead_ranks():
            return self._publish(version)

    def settle(self) -> None:
        """After the ranks' end: wait until no sampler waits for them. Raises WeightSyncError naming who still does."""
        import ray

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
        timeout = self._config.deadlines.sync_seconds
        manifest = self._learner.publish(version, self._incarnation, self._of)
        every = self._config.sync.verify_every
        verify = bool(every) and self._num_published % every == 0
        is_shared = self.backend == "ipc"
        payload = {"handles": self._learner.share_ipc(version)} if is_shared else {}
        update = WeightUpdate(
            manifest=manifest, epoch=self._epoch, verify=verify, timeout_seconds=timeout, payload=payload
        )
        refs: dict[str, Any] = {s.sampler_id: s.actor.update_weights.remote(update) for s in self._pool.samplers}
        if not is_shared:
            for rank, ref in enumerate(self._learner.send(version, self._epoch, timeout, self._of)):
                refs[f"learner rank {rank}"] = ref
        # Each bucket has `timeout` to arrive, and who is late says so itself; this is only the end of all patience.
        results = self._collect(refs, f"take version {version}", timeout * max(1, len(manifest.buckets)))
        sent = self._learner.checksums(version, self._of) if verify else None
        if is_shared:
            self._learner.clear_ipc()
        receipts = [result for result in results.values() if isinstance(result, WeightReceipt)]
        for receipt in receipts:
            _check_receipt(receipt, manifest, sent)
        self.version = version
        self._num_published += 1
        phases: dict[str, float] = {}
        for receipt in receipts:
            for phase, seconds in receipt.seconds.items():
                phases[phase] = max(phases.get(phase, 0.0), seconds)
        return SyncStats(
            version=version,
            seconds=time.monotonic() - started,
            num_bytes=bucket_bytes(manifest.tensors),
            num_checked_tensors=len(receipts) * len(manifest.tensors) if verify else 0,
            phase_seconds=phases,
        )

    def _collect(self, refs: Mapping[str, Any], what: str, timeout: float) -> dict[str, Any]:
        """Wait for all, or raise naming who failed and who is late."""
        import ray

        started = time.monotonic()
        pending = dict(refs)
        results: dict[str, Any] = {}
        self._pending = pending
        while pending:
            left = timeout - (time.monotonic() - started)
            done, _ = ray.wait(list(pending.values()), num_returns=1, timeout=max(0.0, left))
            if not done:
                raise WeightSyncError(
                    f"{', '.join(sorted(pending))} did not {what} within {timeout:.0f} s (epoch {self._epoch}, backend "
                    f"{self.backend}); raise deadlines.sync_seconds if the transfer is that slow"
                )
            name = next(name for name, ref in pending.items() if ref == done[0])
            try:
                results[name] = ray.get(pending.pop(name), timeout=timeout)
            except ray.exceptions.RayActorError as exc:
                raise WeightSyncError(f"{name} died before it could {what}: {_cause(exc)}") from exc
            except ray.exceptions.RayError as exc:
                _look_for_the_dead(pending, what)
                raise WeightSyncError(f"{name} failed to {what}: {_cause(exc)}") from exc
        return results


def _look_for_the_dead(pending: Mapping[str, Any], what: str) -> None:
    """Raise naming a party whose death explains another's error; Ray tells of it some moments later."""
    import ray

    refs = list(pending.values())
    if refs:
        ray.wait(refs, num_returns=len(refs), timeout=GRACE_SECONDS)
    for name, ref in pending.items():
        if not ray.wait([ref], timeout=0)[0]:
            continue
        try:
            ray.get(ref, timeout=GRACE_SECONDS)
        except ray.exceptions.RayActorError as exc:
            raise WeightSyncError(f"{name} died before it could {what}: {_cause(exc)}") from exc
        except ray.exceptions.RayError:
            continue  # another consequence


def _check_receipt(receipt: WeightReceipt, manifest: WeightManifest, sent: Mapping[str, str] | None) -> None:
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


def _cause(exc: BaseException) -> str:
    lines = [line for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(exc).__name__
