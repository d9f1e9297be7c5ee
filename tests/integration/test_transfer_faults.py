"""Transfers whose parties die or hang: everybody gets an error in time, and the same version can be sent again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from learner.exchange import BucketExchange  # noqa: E402
from learner.transfer import open_sender, send_snapshot  # noqa: E402
from learner.weights import Snapshot  # noqa: E402
from quorum.errors import WeightSyncError  # noqa: E402
from quorum.types import TensorMeta, TransferInit, WeightManifest  # noqa: E402
from tests.integration.bare_receivers import Receivers, join_all  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(200)]

CPU = torch.device("cpu")
DEADLINE = 4.0
"""Seconds without a bucket, and for a join."""
SLACK = 4.0
"""Seconds by which an error may come later: two cores, many processes."""
PAUSE = 0.15
NUM_BUCKETS, BUCKET_BYTES = 8, 4 << 20
EPOCHS = itertools.count(1)


def snapshot():
    """One rank's whole model of random bytes, larger than what sockets hold between two processes."""
    torch.manual_seed(0)
    flats = {i: torch.randint(0, 256, (BUCKET_BYTES,), dtype=torch.uint8) for i in range(NUM_BUCKETS)}
    buckets = tuple((TensorMeta(f"weight-{i}", "uint8", (BUCKET_BYTES,)),) for i in flats)
    return Snapshot(manifest=WeightManifest(version=1, incarnation=0, buckets=buckets), num_owners=1, owned=flats)


class Lone:
    """A learner of one rank, as far as transfers go."""

    def __init__(self):
        self.exchange = BucketExchange(0, 1, timedelta(seconds=DEADLINE))

    def open(self, num_receivers):
        epoch = next(EPOCHS)
        sender, port = open_sender("gloo", "127.0.0.1", 0, 1 + num_receivers, CPU, timedelta(seconds=30))
        init = TransferInit(
            backend="gloo",
            epoch=epoch,
            host="127.0.0.1",
            port=port,
            world_size=1 + num_receivers,
            rank_offset=0,
            timeout_seconds=DEADLINE,
        )
        return sender, init

    def connect(self, receivers):
        """Open an epoch that all join."""
        sender, init = self.open(len(receivers))
        join_all(receivers, dataclasses.replace(init, timeout_seconds=30))
        sender.join(dataclasses.replace(init, timeout_seconds=30))
        assert [receiver.answer().error for receiver in receivers] == [""] * len(receivers)
        return sender, init.epoch

    def send(self, sender, held):
        send_snapshot(self.exchange, held, sender, DEADLINE)


def check_all_failed(answers):
    assert all("did not arrive within" in answer.error for answer in answers), answers


@pytest.mark.parametrize("order", [(0, 1), (1, 2), (2, 0)], ids=str)
def test_survivors_of_a_killed_and_a_stopped_receiver_get_the_same_version_again(order):
    """Each victim's place in the tree along which Gloo broadcasts is another: all of them are tried."""
    learner, held = Lone(), snapshot()
    with Receivers(3) as receivers:
        alive, (killed, stopped) = list(receivers), [receivers[i] for i in order]
        for victim, how in ((killed, signal.SIGKILL), (stopped, signal.SIGSTOP)):
            sender, epoch = learner.connect(alive)
            for receiver in alive:
                receiver.receive(held.manifest, epoch, DEADLINE, PAUSE)
            others = [receiver for receiver in alive if receiver is not victim]
            began = time.monotonic()
            with fails_after(victim, how):
                learner.send(sender, held)
            assert time.monotonic() - began < DEADLINE + SLACK
            check_all_failed([receiver.answer() for receiver in others])
            assert time.monotonic() - began < 2 * DEADLINE + SLACK
            alive = others
        sender, epoch = learner.connect(alive)
        alive[0].receive(held.manifest, epoch, DEADLINE)
        learner.send(sender, held)
        assert alive[0].answer()[:2] == ("", held.checksums())


class fails_after:
    """End a receiver some buckets later, and expect the sender's error."""

    def __init__(self, victim, how):
        import threading

        self.thread = threading.Thread(target=self.strike, args=(victim, how), daemon=True)

    @staticmethod
    def strike(victim, how):
        victim.wait_for_buckets(2)
        victim.end(how)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, kind, error, _):
        self.thread.join(10)
        assert kind is WeightSyncError and "was not sent" in str(error)
        return True


@pytest.mark.parametrize(("victim", "how"), [(0, signal.SIGSTOP), (2, signal.SIGKILL)])
def test_a_receiver_that_ends_while_others_join_fails_them_within_the_deadline(victim, how):
    """It has told its address already: the others look for it there."""
    learner = Lone()
    with Receivers(3) as receivers:
        sender, init = learner.open(3)
        others = [receiver for i, receiver in enumerate(receivers) if i != victim]
        receivers[victim].join(dataclasses.replace(init, timeout_seconds=30), 1 + victim)
        time.sleep(2.0)
        receivers[victim].end(how)
        for i, receiver in enumerate(receivers):
            if i != victim:
                receiver.join(init, 1 + i)
        began = time.monotonic()
        with pytest.raises((RuntimeError, OSError, WeightSyncError)):
            sender.join(init)
            learner.send(sender, snapshot())  # a stopped one may have connected: then the first bucket shows it
        assert time.monotonic() - began < 2 * DEADLINE + SLACK
        for receiver in others:
            answer = receiver.answer()
            assert answer.seconds < DEADLINE + SLACK, answer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """15 MB in float32: 15 buckets of at most 1 MiB."""
    return make_model(tmp_path_factory.mktemp("model"), hidden_size=256, num_hidden_layers=4)


def small_buckets(config, **sync):
    return config.model_copy(update={"sync": config.sync.model_copy(update={"bucket_mib": 1, **sync})})


def open_epoch(ranks, receivers):
    """All receivers and rank 0 join; returns the epoch."""
    epoch = next(EPOCHS)
    host, port = ranks.call(0, "open_transfer", "gloo", epoch, 1 + len(receivers), 0)
    init = TransferInit(
        backend="gloo",
        epoch=epoch,
        host=host,
        port=port,
        world_size=1 + len(receivers),
        rank_offset=0,
        timeout_seconds=30,
    )
    join_all(receivers, init)
    ranks.call(0, "join_transfer", init)
    assert [receiver.answer().error for receiver in receivers] == [""] * len(receivers)
    return epoch


def begin_send(ranks, version, epoch):
    for pipe in ranks.pipes:
        pipe.send(("send", (version, epoch, DEADLINE)))


@pytest.mark.parametrize(("victim", "how"), [(0, "KILL"), (1, "KILL"), (1, "STOP")])
def test_a_learner_rank_that_ends_in_a_transfer_fails_the_other_and_the_receivers(model, victim, how):
    with Ranks(small_buckets(make_config(model))) as ranks, Receivers(2) as receivers:
        manifest = ranks.all("publish", 1, 0)[0]
        epoch = open_epoch(ranks, receivers)
        for receiver in receivers:
            receiver.receive(manifest, epoch, DEADLINE, PAUSE)
        begin_send(ranks, 1, epoch)
        receivers[0].wait_for_buckets(2)
        began = time.monotonic()
        os.kill(ranks.processes[victim].pid, getattr(signal, f"SIG{how}"))
        check_all_failed([receiver.answer() for receiver in receivers])
        with pytest.raises(WeightSyncError, match=f"rank {victim}.* died or hangs"):
            ranks.answer(1 - victim, "send")
        assert time.monotonic() - began < DEADLINE + SLACK


def test_ranks_whose_receiver_died_raise_the_same_and_send_again_beside_a_second_epoch(model):
    with Ranks(small_buckets(make_config(model))) as ranks, Receivers(3) as receivers:
        manifest = ranks.all("publish", 1, 0)[0]
        sent = {name: value for part in ranks.all("checksums", 1) for name, value in part.items()}
        everybody = open_epoch(ranks, receivers[:2])
        for receiver in receivers[:2]:
            receiver.receive(manifest, everybody, DEADLINE, PAUSE)
        begin_send(ranks, 1, everybody)
        receivers[1].wait_for_buckets(2)
        receivers[1].end()
        errors = []
        for rank in range(2):
            with pytest.raises(WeightSyncError, match="was not sent") as caught:
                ranks.answer(rank, "send")
            errors.append(str(caught.value))
        assert errors[0] == errors[1] and errors[0].startswith("rank 0: bucket")
        check_all_failed([receivers[0].answer()])

        alone, joiner = open_epoch(ranks, receivers[:1]), open_epoch(ranks, receivers[2:])
        for receiver, epoch in ((receivers[2], joiner), (receivers[0], alone)):
            receiver.receive(manifest, epoch, DEADLINE)
            begin_send(ranks, 1, epoch)
            assert [ranks.answer(rank, "send") for rank in range(2)] == [None, None]
            assert receiver.answer()[:2] == ("", sent)
