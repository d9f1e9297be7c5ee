"""Real samplers: vLLM in Ray actors, weights over Gloo from a plain torch sender, on tiny random models.

One pair of samplers per embedding kind is started for the whole file: one holds the base model, the other was loaded
from disk with perturbed weights. After the transfer of those weights the first has to equal the second bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import DeadlineSection
from quorum.errors import StaleSamplerError
from quorum.types import (
    GroupKey,
    GroupRequest,
    Prompt,
    Role,
    SamplingSettings,
    TransferInit,
    WeightManifest,
    WeightUpdate,
    group_seed,
)
from rollout.pool import SamplerPool
from rollout.settings import SamplerSettings
from tests.integration.tiny_models import load_weights, manifest_of, save_models

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

BLOCK = 32
DEADLINES = DeadlineSection(start_seconds=900, rollout_seconds=60, sync_seconds=60)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass
class Pair:
    """Two samplers of one architecture and the weights that separate them."""

    pool: SamplerPool
    perturbed: list[tuple[str, Any]]

    @property
    def actors(self) -> list[Any]:
        return [sampler.actor for sampler in self.pool.samplers]


def start_pair(root: Path, *, is_tied: bool) -> Pair:
    base, perturbed = save_models(root, is_tied=is_tied)
    settings = [
        SamplerSettings(
            sampler_id=f"{name}-{'tied' if is_tied else 'untied'}",
            model=str(path),
            max_model_len=320,
            kv_cache_gib=0.25,
            initial_version=version,
        )
        for name, path, version in (("base", base, 0), ("fresh", perturbed, 1))
    ]
    pool = SamplerPool.start(settings, deadlines=DEADLINES, actor_options=[{"num_cpus": 1}] * 2)
    return Pair(pool, load_weights(perturbed))


@pytest.fixture(scope="module")
def tied(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = start_pair(tmp_path_factory.mktemp("tied"), is_tied=True)
    yield pair
    pair.pool.stop(30)


@pytest.fixture(scope="module")
def untied(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = start_pair(tmp_path_factory.mktemp("untied"), is_tied=False)
    yield pair
    pair.pool.stop(30)


class Sender:
    """The learner's half, as small as it can be: rank 0 of a Gloo group, one broadcast per bucket."""

    def __init__(self, epoch: int, timeout: float = 60.0) -> None:
        from torch.distributed import TCPStore

        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.epoch, self.timeout = epoch, timeout
        self.store = TCPStore(
            "127.0.0.1",
            self.port,
            2,
            is_master=True,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )

    def connect(self, actor: Any) -> None:
        import ray
        from torch.distributed import PrefixStore, ProcessGroupGloo

        joined = actor.join_transfer.remote(
            TransferInit(
                backend="gloo",
                epoch=self.epoch,
                host="127.0.0.1",
                port=self.port,
                world_size=2,
                rank_offset=1,
                timeout_seconds=self.timeout,
            )
        )
        options = ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=self.timeout)
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        self.group = ProcessGroupGloo(PrefixStore(f"quorum-{self.epoch}", self.store), 0, 2, options)
        ray.get(joined, timeout=self.timeout)

    def order(self, actor: Any, manifest: WeightManifest) -> Any:
        return actor.update_weights.remote(
            WeightUpdate(manifest=manifest, epoch=self.epoch, verify=True, timeout_seconds=self.timeout)
        )

    def send(self, manifest: WeightManifest, weights: list[tuple[str, Any]], num_buckets: int | None = None) -> None:
        import torch

        by_name = dict(weights)
        for bucket in manifest.buckets[:num_buckets]:
            flat = torch.cat([by_name[meta.name].reshape(-1).view(torch.uint8) for meta in bucket])
            self.group.broadcast(flat, 0).wait(timedelta(seconds=self.timeout))


def transfer(pair: Pair, actor: Any, epoch: int, version: int) -> Any:
    import ray

    sender = Sender(epoch)
    sender.connect(actor)
    manifest = manifest_of(pair.perturbed, version)
    assert len(manifest.buckets) > 3
    ordered = sender.order(actor, manifest)
    sender.send(manifest, pair.perturbed)
    return ray.get(ordered, timeout=60)


def request(group_id: int, *, version: int = 1, prompt_tokens: int = 40, k: int = 4, tokens: int = 48) -> GroupRequest:
    key = GroupKey(0, Role.TRAIN, group_id)
    token_ids = np.array([3 + (group_id * 7 + i * i) % 50 for i in range(prompt_tokens)], dtype=np.int32)
    return GroupRequest(
        key=key,
        prompt=Prompt(prompt_id=str(group_id), data_source="test", token_ids=token_ids, text="?"),
        sampling=SamplingSettings(num_completions=k, temperature=0.9, top_p=0.95, max_completion_tokens=tokens),
        seed=group_seed(7, key),
        required_version=version,
    )


def hashes(actor: Any, requests: list[GroupRequest]) -> list[str]:
    """Content hashes (tokens and logprobs) of groups sampled together on one sampler."""
    import ray

    refs = [actor.generate.options(num_returns=2).remote(one)[0] for one in requests]
    return [receipt.content_hash for receipt in ray.get(refs, timeout=120)]


def probe_scores(actor: Any) -> np.ndarray:
    import ray

    return ray.get(actor.score.remote([3 + (i * 5) % 50 for i in range(64)]), timeout=60)


def check_transfer_equals_fresh(pair: Pair, epoch: int) -> None:
    import torch

    base, fresh = pair.actors
    before = probe_scores(base)
    assert not np.array_equal(before, probe_scores(fresh))
    old = hashes(base, [request(i, version=0) for i in range(4)])

    receipt = transfer(pair, base, epoch, version=1)

    expected = {
        name: hashlib.blake2b(tensor.reshape(-1).view(torch.uint8).numpy(), digest_size=8).hexdigest()
        for name, tensor in pair.perturbed
    }
    assert receipt.version == 1
    assert dict(receipt.checksums) == expected
    assert {"pause", "start", "update", "finish", "reset", "resume"} <= set(receipt.seconds)
    assert np.array_equal(probe_scores(base), probe_scores(fresh))
    new = hashes(base, [request(i) for i in range(4)])
    assert new == hashes(fresh, [request(i) for i in range(4)])
    assert not set(new) & set(old)


def test_after_a_transfer_tied_embeddings_equal_a_fresh_engine_bit_for_bit(tied: Pair) -> None:
    check_transfer_equals_fresh(tied, epoch=1)


def test_a_request_for_another_version_is_refused(tied: Pair) -> None:
    import ray

    with pytest.raises(StaleSamplerError, match="holds policy version 1, the request needs 0"):
        ray.get(tied.actors[0].generate.options(num_returns=2).remote(request(0, version=0))[0], timeout=60)


def test_a_transfer_that_stops_midway_names_the_bucket_and_the_next_one_heals_the_sampler(tied: Pair) -> None:
    import ray

    actor, fresh = tied.actors
    sender = Sender(epoch=2, timeout=3.0)
    sender.connect(actor)
    manifest = manifest_of(tied.perturbed, version=2)
    ordered = sender.order(actor, manifest)
    sender.send(manifest, tied.perturbed, num_buckets=2)
    with pytest.raises(ray.exceptions.RayTaskError, match=r"base-tied, version 2: phase update.*bucket 3 of \d+"):
        ray.get(ordered, timeout=60)
    with pytest.raises(StaleSamplerError, match="holds policy version -1"):
        ray.get(actor.generate.options(num_returns=2).remote(request(0))[0], timeout=60)

    transfer(tied, actor, epoch=3, version=1)
    assert np.array_equal(probe_scores(actor), probe_scores(fresh))
    assert hashes(actor, [request(9)]) == hashes(fresh, [request(9)])


def test_tokens_are_the_same_alone_in_a_batch_and_split_over_two_samplers(tied: Pair) -> None:
    requests = [request(i, tokens=64) for i in range(20, 28)]
    alone = [hashes(tied.actors[0], [one])[0] for one in requests[:3]]
    batch = hashes(tied.actors[0], requests)
    split, used = draw_in_pool(tied.pool, list(reversed(requests)))
    assert alone == batch[:3]
    assert [split[one.key.group_id] for one in requests] == batch
    assert used == {"base-tied", "fresh-tied"}


def test_a_groups_prompt_is_prefilled_once(tied: Pair) -> None:
    import ray

    one = request(40, prompt_tokens=6 * BLOCK + 1, k=16, tokens=4)
    ref, _ = tied.actors[0].generate.options(num_returns=2).remote(one)
    receipt = ray.get(ref, timeout=60)
    assert receipt.num_prompt_tokens == 6 * BLOCK + 1
    assert receipt.num_prompt_tokens <= receipt.num_prefilled_tokens <= 1.1 * receipt.num_prompt_tokens


def test_greedy_and_stop_strings_work_and_the_end_of_text_token_is_kept(tied: Pair) -> None:
    import ray

    one = request(50, k=64, tokens=200)
    receipt_ref, group_ref = tied.actors[0].generate.options(num_returns=2).remote(one)
    group = ray.get(group_ref, timeout=60)
    stopped = [c for c in group.completions if c.finish_reason == "stop"]
    assert stopped and all(c.token_ids[-1] == 1 and "<eos>" not in c.text for c in stopped)
    assert all(len(c.rollout_logprobs) == len(c.token_ids) for c in group.completions)
    assert all(1 not in c.token_ids[:-1] for c in group.completions)
    greedy = GroupRequest(
        key=one.key,
        prompt=one.prompt,
        sampling=SamplingSettings(num_completions=2, temperature=0.0, top_p=1.0, max_completion_tokens=8),
        seed=0,
        required_version=1,
    )
    group = ray.get(tied.actors[0].generate.options(num_returns=2).remote(greedy)[1], timeout=60)
    assert np.array_equal(group.completions[0].token_ids, group.completions[1].token_ids)


def test_a_killed_samplers_groups_are_drawn_by_the_other_bit_for_bit_and_it_leaves_no_process(tied: Pair) -> None:
    base, victim = tied.pool.samplers
    requests = [request(i, k=16, tokens=256) for i in range(60, 64)]
    expected = hashes(base.actor, requests)

    def kill() -> None:
        assert victim.calls
        os.kill(victim.info.pid, signal.SIGKILL)

    split, used = draw_in_pool(tied.pool, requests, kill)
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in victim.pids) and time.monotonic() < deadline:
        tied.pool.pump(0.1)
    assert [split[one.key.group_id] for one in requests] == expected
    assert used == {"base-tied"} and tied.pool.num_requeued > 0
    assert [pid for pid in victim.pids if is_alive(pid)] == []
    assert tied.pool.samplers == [base]
    assert any("fresh-tied" in event for event in tied.pool.take_events())
    tied.pool.stop(30)


def draw_in_pool(
    pool: SamplerPool, requests: list[GroupRequest], meanwhile: Callable[[], None] = lambda: None
) -> tuple[dict[int, str], set[str]]:
    """Content hash of each group by its id, and the samplers that drew them."""
    for sampler in pool.samplers:
        pool.mark_ready(sampler, 1)
    for one in requests:
        pool.submit(one)
    meanwhile()
    drawn: dict[int, str] = {}
    used = set()
    deadline = time.monotonic() + 120
    while len(drawn) < len(requests) and time.monotonic() < deadline:
        for done in pool.pump(1.0):
            assert done.receipt is not None
            drawn[done.request.key.group_id] = done.receipt.content_hash
            used.add(done.receipt.sampler_id)
    return drawn, used


def test_after_a_transfer_untied_embeddings_equal_a_fresh_engine_bit_for_bit(untied: Pair) -> None:
    check_transfer_equals_fresh(untied, epoch=1)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
