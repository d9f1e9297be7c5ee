"""A worker's end of a transfer, with transports that stand in for real ones."""

import pytest

torch = pytest.importorskip("torch")

from quorum.types import TensorMeta, WeightManifest  # noqa: E402
from rollout.transfer.intake import BucketIntake  # noqa: E402
from rollout.transfer.ipc import arguments_for  # noqa: E402
from rollout.transfer.nccl import NcclTransport  # noqa: E402
from rollout.transfer.wire import JoinOrder, UpdateOrder, manifest_to_plain, tensor_checksum  # noqa: E402

CPU = torch.device("cpu")
MANIFEST = WeightManifest(
    version=3,
    incarnation=0,
    buckets=((TensorMeta("a", "float32", (2,)), TensorMeta("b", "float32", (1,))), (TensorMeta("c", "float32", (3,)),)),
)
JOIN = JoinOrder(epoch=7, host="h", port=1, world_size=2, rank_offset=1, timeout_seconds=1.0)


def order(epoch=7, *, verify=True):
    return UpdateOrder(3, epoch, manifest_to_plain(MANIFEST), verify, 1.0)


class Given:
    """Fills bucket i with the number i + 1, and fails at one of them if asked to."""

    def __init__(self, fails_at=None):
        self.fails_at, self.num_left = fails_at, 0

    def join(self, order, rank):
        self.rank = rank

    def receive(self, number, flat, order):
        if number == self.fails_at:
            raise RuntimeError("connection closed by peer")
        flat.view(torch.float32).fill_(number + 1)

    def leave(self):
        self.num_left += 1


def test_every_buckets_tensors_are_handed_on_and_hashed_by_name():
    intake, loaded = BucketIntake(Given(), CPU), {}
    intake.join(JOIN, 1)
    receipt = intake.receive(order(), loaded.update)
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {"a": [1, 1], "b": [1], "c": [2, 2, 2]}
    assert receipt["version"] == 3 and set(receipt["seconds"]) == {"receive", "verify", "load"}
    assert receipt["checksums"] == {name: tensor_checksum(tensor) for name, tensor in loaded.items()}
    assert intake.receive(order(verify=False), loaded.update)["checksums"] == {}


def test_an_update_for_another_epoch_is_refused_without_leaving():
    intake = BucketIntake(Given(), CPU)
    with pytest.raises(RuntimeError, match="epoch 7, this worker is in none"):
        intake.receive(order(), dict().update)
    intake.join(JOIN, 1)
    with pytest.raises(RuntimeError, match="epoch 8, this worker is in 7"):
        intake.receive(order(8), dict().update)
    assert intake.receive(order(), dict().update)["version"] == 3


def refuse(tensors):
    raise ValueError("no such layer")


@pytest.mark.parametrize(
    ("transport", "load", "said"),
    [
        (
            Given(fails_at=1),
            dict().update,
            r"bucket 2 of 2 \(12 bytes, .* c\) .* within 1 s: connection closed",
        ),
        (Given(), refuse, "no such layer"),
    ],
)
def test_whatever_goes_wrong_ends_the_membership_at_once(transport, load, said):
    intake = BucketIntake(transport, CPU)
    intake.join(JOIN, 1)
    before = transport.num_left
    with pytest.raises((RuntimeError, ValueError), match=said):
        intake.receive(order(), load)
    assert transport.num_left == before + 1
    with pytest.raises(RuntimeError, match="this worker is in none"):
        intake.receive(order(), load)


def test_a_receiver_finds_the_handle_of_its_own_gpu_and_names_those_it_was_sent():
    handles = {f"GPU-{i}": tuple(f"{i}{j}" for j in range(8)) for i in range(2)}
    assert arguments_for(handles, "GPU-1", torch.device("cuda", 0)) == ["10", "11", "12", "13", "14", "15", 0, "17"]
    with pytest.raises(RuntimeError, match="no handle for GPU GPU-9, the learner sent GPU-0, GPU-1"):
        arguments_for(handles, "GPU-9", torch.device("cuda", 0))


class Communicator:
    """Of NCCL, whose broadcast never ends."""

    destroyed = False

    def broadcast(self, flat, src, stream):
        self.stream = stream

    def destroy(self):
        self.destroyed = True


class Stream:
    def record_event(self):
        return self

    def query(self):
        return False


def test_an_nccl_broadcast_that_never_comes_ends_at_the_deadline_and_aborts_the_communicator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    transport, communicator = NcclTransport(CPU), Communicator()
    transport._communicator = communicator
    intake = BucketIntake(transport, CPU)
    intake._epoch = 7
    late = UpdateOrder(3, 7, manifest_to_plain(MANIFEST), False, 0.02)
    with pytest.raises(RuntimeError, match="bucket 1 of 2 .* within 0.02 s: the broadcast of bucket 1 took more than"):
        intake.receive(late, dict().update)
    assert communicator.destroyed
