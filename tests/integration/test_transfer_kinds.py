"""Adapters alone give the bits of a merged transfer; buckets staged for shared GPUs are whole on every rank."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

import torch.distributed as dist  # noqa: E402

from learner.rank import Rank  # noqa: E402
from quorum.types import TransferInit, WeightUpdate  # noqa: E402
from quorum.wire import bucket_bytes, checksum, layout  # noqa: E402
from rollout.sampler import Sampler, SamplerSettings  # noqa: E402
from tests.integration.bare_receivers import Receivers, join_all  # noqa: E402
from tests.integration.learner_processes import Ranks, context, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]

EPOCHS = itertools.count(1)
SECONDS = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), hidden_size=128)


def open_for_one(ranks):
    epoch = next(EPOCHS)
    host, port = ranks.call(0, "open_transfer", "gloo", epoch, 2, 0)
    return TransferInit(
        backend="gloo", epoch=epoch, host=host, port=port, world_size=2, rank_offset=0, timeout_seconds=SECONDS
    )


def send_to_one(ranks, receiver, manifest, model=None):
    """Checksums of what a receiver holds in the end."""
    init = open_for_one(ranks)
    join_all([receiver], init)
    ranks.call(0, "join_transfer", init)
    assert receiver.answer().error == ""
    receiver.receive(manifest, init.epoch, SECONDS, model=model)
    ranks.all("send", manifest.version, init.epoch, SECONDS)
    answer = receiver.answer()
    assert answer.error == ""
    return answer.checksums


def train_and_send(model, receiver, lora, dtype, **learner):
    config = make_config(model, lora={"rank": 4, "alpha": 8}, learning_rate=1e-2, **learner)
    config = config.model_copy(
        update={
            "sync": config.sync.model_copy(update={"lora": lora, "bucket_mib": 1}),
            "rollout": config.rollout.model_copy(update={"dtype": dtype}),
        }
    )
    with Ranks(config) as ranks:
        ranks.step(batches(1)[0])
        manifest = ranks.all("publish", 1, 0)[0]
        return manifest, send_to_one(ranks, receiver, manifest, model if lora == "adapters" else None)


@pytest.mark.parametrize(
    ("zero_stage", "precision", "dtype"),
    [(2, "float32", "bfloat16"), (3, "bfloat16", "bfloat16")],
)
def test_adapters_alone_give_the_bits_of_a_merged_transfer_for_a_fifth_of_the_bytes(
    model, zero_stage, precision, dtype
):
    section = {"zero_stage": zero_stage, "precision": precision}
    with Receivers(1) as (receiver,):
        merged, expected = train_and_send(model, receiver, "merged", dtype, **section)
        adapters, made = train_and_send(model, receiver, "adapters", dtype, **section)
    assert made == expected and len(made) == len(merged.tensors)
    assert all("lora_" in meta.name for meta in adapters.tensors)
    assert bucket_bytes(adapters.tensors) < 0.2 * bucket_bytes(merged.tensors)


def _serve_engine(pipe, model):
    """A sampler in this process: takes updates and scores a fixed text after each."""
    sampler = Sampler(
        SamplerSettings(sampler_id="engine", model=model, max_model_len=128, kv_cache_gib=0.25, initial_version=0)
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(sampler.start())
    pipe.send("started")
    while True:
        assert pipe.poll(600)
        init, manifest = pipe.recv()
        if init is None:
            loop.run_until_complete(sampler.stop())
            return
        loop.run_until_complete(sampler.join_transfer(dataclasses.replace(init, rank_offset=1)))
        update = WeightUpdate(manifest=manifest, epoch=init.epoch, verify=True, timeout_seconds=SECONDS)
        receipt = loop.run_until_complete(sampler.update_weights(update))
        scores = loop.run_until_complete(sampler.score([3 + (i * 5) % 50 for i in range(64)]))
        pipe.send((dict(receipt.checksums), scores.tolist()))


class Engine:
    """A sampler in a process of its own, with a `Receiver`'s way to be sent to."""

    def __init__(self, model):
        made = context()
        self.pipe, theirs = made.Pipe()
        self.process = made.Process(target=_serve_engine, args=(theirs, str(model)))
        self.process.start()
        assert self.pipe.poll(400) and self.pipe.recv() == "started"

    def take(self, ranks, manifest):
        """Checksums of what arrived, and scores under it."""
        init = open_for_one(ranks)
        self.pipe.send((init, manifest))
        ranks.call(0, "join_transfer", init)
        ranks.all("send", manifest.version, init.epoch, SECONDS)
        assert self.pipe.poll(60)
        return self.pipe.recv()

    def stop(self):
        self.pipe.send((None, None))
        self.process.join(30)
        self.process.kill()


class BothWaysRank(Rank):
    """Publishes in either way."""

    def publish_as(self, version, lora):
        config = self.settings.config
        sync = config.sync.model_copy(update={"lora": lora})
        self.settings = dataclasses.replace(self.settings, config=config.model_copy(update={"sync": sync}))
        return self.publish(version, 0)


@pytest.mark.timeout(600)
def test_an_engine_answers_alike_whether_its_adapters_came_merged_or_alone(model):
    pytest.importorskip("vllm")
    config = make_config(model, lora={"rank": 4, "alpha": 8}, learning_rate=1e-2)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"dtype": "bfloat16"})})
    engine = Engine(model)
    try:
        with Ranks(config, BothWaysRank) as ranks:
            _, before = engine.take(ranks, ranks.all("publish_as", 1, "merged")[0])
            for batch in batches(2):
                ranks.step(batch)
            manifest = ranks.all("publish_as", 2, "adapters")[0]
            sent = {name: value for part in ranks.all("checksums", 2) for name, value in part.items()}
            checksums, alone = engine.take(ranks, manifest)
            _, merged = engine.take(ranks, ranks.all("publish_as", 3, "merged")[0])
    finally:
        engine.stop()
    assert alone == merged != before
    assert checksums == sent and set(sent) == {meta.name for meta in manifest.tensors}


class StagingRank(Rank):
    """Stages in host memory what it would on a GPU."""

    def stage(self, version):
        with self._snapshots["policy"].reading(version) as snapshot:
            self._ipc.stage(self._exchange.to_all(snapshot), torch.device("cpu"))
            return {
                meta.name: checksum(memoryview(flat[place].numpy()))
                for flat, bucket in zip(self._ipc.staged, snapshot.manifest.buckets, strict=True)
                for meta, place in layout(bucket)
            }


def test_every_rank_stages_every_bucket_for_the_sampler_on_its_gpu(model):
    config = make_config(model)
    config = config.model_copy(update={"sync": config.sync.model_copy(update={"bucket_mib": 1})})
    with Ranks(config, StagingRank) as ranks:
        manifest = ranks.all("publish", 1, 0)[0]
        owned = ranks.all("checksums", 1)
        staged = ranks.all("stage", 1)
        assert ranks.all("clear_ipc") == [None, None]
    assert len(manifest.buckets) > 1 and all(owned)
    assert staged == [{**owned[0], **owned[1]}] * 2


class WaitingRank(Rank):
    """Shows what rank 1 can hand over while rank 0 does something with the first bucket."""

    def use_first_bucket(self, version, seconds):
        """When it was done with, on the clock of both."""
        with self._snapshots["policy"].reading(version) as snapshot:
            buckets = self._exchange.gather(snapshot, SECONDS)
            next(buckets)
            time.sleep(seconds)
            done = time.monotonic()
            for _ in buckets:
                pass
            return done

    def hand_over_timed(self, version):
        """When each bucket had gone."""
        with self._snapshots["policy"].reading(version) as snapshot:
            times, owned = [], dict(snapshot.owned)
            for index, flat in owned.items():
                dist.isend(flat, dst=0, group=self._exchange.group, tag=index).wait(timedelta(seconds=SECONDS))
                times.append(time.monotonic())
            self._exchange.hand_over(dataclasses.replace(snapshot, owned={}), SECONDS)
            return times


def test_the_next_buckets_of_other_ranks_come_while_one_is_being_sent(model):
    config = make_config(model)
    config = config.model_copy(update={"sync": config.sync.model_copy(update={"bucket_mib": 1})})
    with Ranks(config, WaitingRank) as ranks:
        ranks.all("publish", 1, 0)
        ranks.pipes[0].send(("use_first_bucket", (1, 2.0)))
        ranks.pipes[1].send(("hand_over_timed", (1,)))
        done, times = ranks.answer(0, "use_first_bucket"), ranks.answer(1, "hand_over_timed")
    assert len(times) > 0 and times[0] < done - 0.5
