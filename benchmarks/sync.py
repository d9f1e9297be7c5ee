"""`quorum bench sync`: weights of 10 MB to 2 GB to 1, 2 and 4 receivers over Gloo, wire and load apart.

Bare receivers, which have our transport and no engine, are compared with a plain Gloo broadcast of the same bytes
between the same processes, and with a copy in memory; the sides alternate. Engines take the sizes up to 200 MB, idle
and under completions that go on. The wire is what a receiver waits for bytes from the sender's first one on; the load
is what it does with them. Speeds are per receiver.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.models import make_untrained_model
from benchmarks.results import BenchResult, Median
from benchmarks.sync_links import (
    SECONDS,
    SETTLE_SECONDS,
    START_SECONDS,
    Learner,
    Link,
    Receiver,
    available_gib,
    model_snapshot,
    random_snapshot,
)
from configs.schema import SyncSection
from quorum.wire import bucket_bytes

MB = 1_000_000
ENGINE_SHAPES = {10: (256, 6), 50: (512, 8), 200: (1024, 8)}
"""Size in MB -> hidden size and layers of a model that has about that many bytes in bfloat16."""
QUICK = (10, 200)
"""Sizes that engines take with few repeats: a start of theirs costs as much as all transfers to them."""
LARGE = (1000, 2000)
"""Sizes in MB that only bare receivers take."""
FULL_REPEATS = 3
"""From so many repeats on everything is measured; with fewer neither LARGE nor more than two engines."""
BARE_ROUNDS = 5
"""Rounds per repeat of the sizes that take less than a second."""
COUNTS = (1, 2, 4)
ENGINE_GIB = 3.5
"""Memory of one engine; so many are started as fit."""
LOAD_PHASES = ("start", "update_verify", "update_load", "finish")
"""Of a receipt: layers made ready, tensors cut out of the bucket, loaded, layers finished."""


@dataclass(frozen=True, slots=True)
class BareRound:
    """Seconds for the same bytes: over our wire, by a plain broadcast, by a copy in memory."""

    wire: float
    broadcast: float
    copy: float


@dataclass(frozen=True, slots=True)
class EngineRound:
    """One update of some engines, the slowest of them; seconds."""

    wire: float
    load: float
    total: float
    stall: float | None = None
    """Of the completions that ran; None where none did."""

    @property
    def excess(self) -> float:
        """What the stall was longer than wire and load."""
        assert self.stall is not None
        return self.stall - self.wire - self.load


def run_sync(repeats: int, seed: int) -> BenchResult:
    """Measure. The stall of the headline is that with a kept KV cache: one computed again is work of the engine, and
    listed beside it."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    bucket_mib = SyncSection().bucket_mib
    is_full = repeats >= FULL_REPEATS
    values: dict[str, object] = {"bucket_mib": bucket_mib}
    values |= measure_bare([*ENGINE_SHAPES, *(LARGE if is_full else ())], bucket_mib, repeats, seed)
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        for size, shape in ENGINE_SHAPES.items():
            if not is_full and size not in QUICK:
                continue
            model = make_untrained_model(Path(scratch) / f"model-{size}", hidden=shape[0], layers=shape[1], seed=seed)
            values |= measure_engines(size, model, bucket_mib, repeats)
    headline = {
        "wire_share_of_broadcast": values["wire_share_200mb_2"],
        "stall_over_transfer_seconds": values.get("stall_excess_seconds_200mb_1"),
    }
    return BenchResult("sync", headline | values, seed=seed, repeats=repeats)


def measure_bare(sizes: Sequence[int], bucket_mib: int, repeats: int, seed: int) -> dict[str, object]:
    """Bare receivers beside a plain broadcast and a copy; sizes in MB."""
    import torch.distributed as dist

    receivers = [Receiver(number, "bare") for number in range(1, 1 + max(COUNTS))]
    values: dict[str, object] = {}
    try:
        groups, learner = _plain_groups(receivers), Learner.make()
        for size in sizes:
            snapshot = random_snapshot(size * MB, bucket_mib, seed)
            num_rounds = repeats * (1 if size in LARGE else BARE_ROUNDS)
            for num in COUNTS:
                link = learner.connect(receivers[:num])
                rounds = [
                    _bare_round(link, groups[num], snapshot, broadcast_first=repeat % 2 == 0)
                    for repeat in range(num_rounds + 1)
                ][1:]
                link.close()
                values |= bare_figures(f"{size}mb_{num}", size * MB, rounds)
                print(bare_line(size, num, rounds), flush=True)
    finally:
        for receiver in receivers:
            receiver.stop()
        if dist.is_initialized():
            dist.destroy_process_group()
    return values


def _plain_groups(receivers: Sequence[Receiver]) -> dict[int, Any]:
    import torch.distributed as dist

    from benchmarks.sync_bare import plain_groups

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    timeout = timedelta(seconds=SECONDS)
    store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, timeout=timeout, wait_for_workers=False)
    for rank, receiver in enumerate(receivers, start=1):
        receiver.tell({"do": "start", "port": store.port, "rank": rank, "counts": COUNTS})
    groups = plain_groups(store, 0, list(COUNTS))
    for receiver in receivers:
        receiver.answer("start", SECONDS)
    return groups


def _bare_round(link: Link, group: Any, snapshot: Any, *, broadcast_first: bool) -> BareRound:
    def ours() -> float:
        began, answers = link.send(snapshot)
        # A receiver that waits before the sender sends does not wait for bytes yet.
        return max(answer["receive"] - (began - answer["began"]) for answer in answers)

    if broadcast_first:
        broadcast = _broadcast(link.receivers, group, snapshot)
        return BareRound(ours(), broadcast, _copy(snapshot))
    wire = ours()
    return BareRound(wire, _broadcast(link.receivers, group, snapshot), _copy(snapshot))


def _broadcast(receivers: Sequence[Any], group: Any, snapshot: Any) -> float:
    import torch.distributed as dist

    sizes = [bucket_bytes(bucket) for bucket in snapshot.manifest.buckets]
    for receiver in receivers:
        receiver.tell({"do": "broadcast", "receivers": len(receivers), "sizes": sizes})
    for receiver in receivers:
        receiver.answer("get ready for a broadcast", SECONDS)
    time.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    for flat in snapshot.owned.values():
        dist.broadcast(flat, src=0, group=group)
    return max(receiver.answer("broadcast", SECONDS)["ended"] for receiver in receivers) - began


def _copy(snapshot: Any) -> float:
    import torch

    into = torch.zeros(max(map(len, snapshot.owned.values())), dtype=torch.uint8)
    began = time.monotonic()
    for flat in snapshot.owned.values():
        into[: len(flat)].copy_(flat)
    return time.monotonic() - began


def measure_engines(size: int, model: Path, bucket_mib: int, repeats: int) -> dict[str, object]:
    """Engines of a model of about `size` MB, idle and with completions running."""
    fitting = [num for num in COUNTS if num * ENGINE_GIB <= available_gib()]
    if not fitting:
        print(f"{size} MB: no engine fits into {available_gib():.1f} GiB", flush=True)
        return {}
    most = max(fitting) if repeats >= FULL_REPEATS else min(2, max(fitting))
    engines = [Receiver(number, "engine") for number in range(1, 1 + most)]
    values: dict[str, object] = {}
    try:
        for engine in engines:
            engine.tell({"do": "start", "model": str(model)})
        for engine in engines:
            engine.answer("start", START_SECONDS)
        learner = Learner.make()
        snapshot = model_snapshot(model, bucket_mib, version=1)
        num_bytes = bucket_bytes(snapshot.manifest.tensors)
        for num in (num for num in fitting if num <= most):
            link = learner.connect(engines[:num])
            rounds = [_engine_round(link, snapshot) for _ in range(repeats + 1)][1:]
            values |= engine_figures(f"{size}mb_{num}", num_bytes, rounds)
            print(engine_line(size, num, rounds), flush=True)
            if num == 1:
                for kv_cache in ("keep", "recompute"):
                    options = {"running": True, "kv_cache": kv_cache}
                    rounds = [_engine_round(link, snapshot, **options) for _ in range(repeats + 1)][1:]
                    values |= stall_figures(f"{size}mb_{num}", kv_cache, rounds)
                    print(stall_line(size, kv_cache, rounds), flush=True)
            link.close()
        for engine in engines:
            engine.ask({"do": "stop"}, SECONDS)
    finally:
        for engine in engines:
            engine.stop()
    return values


def _engine_round(link: Link, snapshot: Any, *, running: bool = False, kv_cache: str = "keep") -> EngineRound:
    """The sender waits for the engines here, whose wire begins when they are ready."""
    _, answers = link.send(snapshot, {"running": running, "kv_cache": kv_cache})
    seconds = [answer["seconds"] for answer in answers]
    return EngineRound(
        wire=max(each["update_receive"] for each in seconds),
        load=max(sum(each[phase] for phase in LOAD_PHASES) for each in seconds),
        total=max(sum(value for name, value in each.items() if "update_" not in name) for each in seconds),
        stall=max(answer["stall"] for answer in answers) if running else None,
    )


def bare_figures(name: str, num_bytes: int, rounds: Sequence[BareRound]) -> dict[str, object]:
    """Medians; the share of the broadcast's speed is that of the paired ratios."""
    return {
        f"wire_share_{name}": Median(one.broadcast / one.wire for one in rounds),
        f"wire_gbps_{name}": _gbps(num_bytes, [one.wire for one in rounds]),
        f"broadcast_gbps_{name}": _gbps(num_bytes, [one.broadcast for one in rounds]),
        f"copy_gbps_{name}": _gbps(num_bytes, [one.copy for one in rounds]),
    }


def engine_figures(name: str, num_bytes: int, rounds: Sequence[EngineRound]) -> dict[str, object]:
    """Medians of idle engines."""
    return {
        f"engine_wire_gbps_{name}": _gbps(num_bytes, [one.wire for one in rounds]),
        f"engine_wire_seconds_{name}": Median(one.wire for one in rounds),
        f"engine_load_seconds_{name}": Median(one.load for one in rounds),
        f"engine_update_seconds_{name}": Median(one.total for one in rounds),
    }


def stall_figures(name: str, kv_cache: str, rounds: Sequence[EngineRound]) -> dict[str, object]:
    """Medians under running completions. With recomputed caches the stall holds their prompts' and tokens' prefill."""
    mark = "" if kv_cache == "keep" else "recompute_"
    return {
        f"stall_{mark}seconds_{name}": Median(one.stall or 0.0 for one in rounds),
        f"stall_{mark}excess_seconds_{name}": Median(one.excess for one in rounds),
    }


def bare_line(size: int, num: int, rounds: Sequence[BareRound]) -> str:
    """One line for people."""
    found: Mapping[str, Any] = bare_figures("x", size * MB, rounds)
    return (
        f"{size} MB to {num} bare: wire {found['wire_gbps_x']:.2f} GB/s, plain broadcast "
        f"{found['broadcast_gbps_x']:.2f}, copy {found['copy_gbps_x']:.1f}; share of the broadcast "
        f"{found['wire_share_x']:.2f}"
    )


def engine_line(size: int, num: int, rounds: Sequence[EngineRound]) -> str:
    """One line for people."""
    found: Mapping[str, Any] = engine_figures("x", size * MB, rounds)
    return (
        f"{size} MB to {num} engines: wire {found['engine_wire_seconds_x']:.3f} s, load "
        f"{found['engine_load_seconds_x']:.3f} s, whole update {found['engine_update_seconds_x']:.3f} s"
    )


def stall_line(size: int, kv_cache: str, rounds: Sequence[EngineRound]) -> str:
    """One line for people."""
    stall = statistics.median(one.stall or 0.0 for one in rounds)
    excess = statistics.median(one.excess for one in rounds)
    return f"{size} MB, running completions, KV cache {kv_cache}: stall {stall:.3f} s, {excess:+.3f} s to wire and load"


def _gbps(num_bytes: int, seconds: Sequence[float]) -> float:
    return Median(num_bytes / one / 1e9 for one in seconds)
