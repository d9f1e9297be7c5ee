"""Sending halves, with stand-ins for devices and groups."""

import socket
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")

from learner.transfer import GlooSender, NcclSender, merge_handles, open_sender  # noqa: E402
from quorum.errors import WeightSyncError  # noqa: E402

CPU = torch.device("cpu")
SECOND = timedelta(seconds=1)


def test_handles_of_all_ranks_are_merged_bucket_by_bucket():
    ranks = [[{"GPU-0": "a0"}, {"GPU-0": "b0"}], [{"GPU-1": "a1"}, {"GPU-1": "b1"}]]
    assert merge_handles(ranks) == [{"GPU-0": "a0", "GPU-1": "a1"}, {"GPU-0": "b0", "GPU-1": "b1"}]


def test_a_port_that_is_taken_is_named_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WeightSyncError, match=rf"cannot listen for samplers on [0-9.]+:{port}.*sync\.port to 0"):
            open_sender("gloo", "127.0.0.1", port, 2, CPU, SECOND)


def test_a_backend_without_a_group_is_refused():
    with pytest.raises(WeightSyncError, match="'ipc' joins no group"):
        open_sender("ipc", "127.0.0.1", 0, 2, CPU, SECOND)


@pytest.mark.parametrize("sender", [GlooSender(None), NcclSender(CPU)])
def test_nothing_is_sent_to_nobody(sender):
    with pytest.raises(RuntimeError, match="no receiver has joined"):
        sender.broadcast(torch.zeros(1, dtype=torch.uint8), 1.0)


class Communicator:
    destroyed = False

    def broadcast(self, flat, src, stream):
        assert flat.numel() == 4 and src == 0

    def destroy(self):
        self.destroyed = True


class Stream:
    def record_event(self):
        return self

    def query(self):
        return False


def test_an_nccl_broadcast_that_does_not_end_is_aborted_after_the_deadline(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    communicator = Communicator()
    sender = NcclSender(CPU, communicator)
    with pytest.raises(TimeoutError, match=r"the broadcast took more than 0\.02 s"):
        sender.broadcast(torch.zeros(4, dtype=torch.uint8), 0.02)
    sender.close()
    assert communicator.destroyed and sender.communicator is None
