"""What a rank does otherwise on a GPU, with torch's calls recorded instead of made."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from configs.schema import LearnerSection  # noqa: E402
from learner.models import _Loader  # noqa: E402
from learner.rank import Rank  # noqa: E402
from learner.weights import take_snapshot  # noqa: E402
from learner.zero import ZeroEngine  # noqa: E402


class Engine:
    """Holds whole parameters, as ZeRO does below stage 3."""

    world_size = 1

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def gathered(self, parameters):
        import contextlib

        return contextlib.nullcontext()


@pytest.mark.parametrize(("device", "is_pinned"), [("cuda", True), ("cpu", False)])
def test_a_snapshot_of_a_gpu_lies_in_pinned_host_memory(monkeypatch, device, is_pinned):
    asked, empty = [], torch.empty

    def recording(*size, pin_memory, **options):
        asked.append(pin_memory)
        return empty(*size, **options)

    model = torch.nn.Linear(3, 2)
    monkeypatch.setattr("learner.weights.torch.empty", recording)
    options = {"version": 1, "incarnation": 0, "dtype": torch.bfloat16, "max_bytes": 1 << 20, "rank": 0}
    snapshot = take_snapshot(model, Engine(device), **options)
    assert asked == [is_pinned]
    held = snapshot.owned[0].view(torch.bfloat16)
    assert torch.equal(held[:6].view(2, 3), model.weight.detach().bfloat16())


@pytest.mark.parametrize(("device", "colocate", "times"), [("cuda", True, 1), ("cuda", False, 0), ("cpu", True, 0)])
def test_cached_memory_is_given_back_only_on_a_gpu_that_a_sampler_shares(monkeypatch, device, colocate, times):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(True))
    rank = Rank.__new__(Rank)
    rank.settings = SimpleNamespace(
        device=device, config=SimpleNamespace(cluster=SimpleNamespace(colocate=colocate)), rank=0
    )
    rank._updater = SimpleNamespace(run=lambda *_: SimpleNamespace(num_updates=0))
    rank._num_updates = 0
    rank.step(SimpleNamespace(step=1), {})
    assert len(calls) == times


def test_a_restored_step_count_lies_where_the_fused_optimizer_reads_it(monkeypatch):
    engine = ZeroEngine.__new__(ZeroEngine)
    engine._engine = SimpleNamespace(module=torch.nn.Linear(2, 1, bias=False))
    states = [{"exp_avg": torch.zeros(2, device="meta")}, {"exp_avg": torch.zeros(2)}]
    monkeypatch.setattr(engine, "_make_states", lambda: states)
    monkeypatch.setattr(engine, "_write", lambda parameter, state: None)
    engine.restore(lambda name: {"step": 7.0})
    assert [held["step"].device.type for held in states] == ["meta", "cpu"]
    assert states[1]["step"] == 7.0 and states[1]["step"].dtype == torch.float32


@pytest.mark.parametrize(("device", "num_chunks"), [("cpu", 8), ("cuda", 1)])
def test_a_gpu_computes_the_logits_of_a_large_vocabulary_in_fewer_parts(monkeypatch, device, num_chunks):
    made = {}
    monkeypatch.setattr("learner.models.Policy", lambda model, **options: made.update(options))
    config = SimpleNamespace(learner=LearnerSection(), rollout=SimpleNamespace(temperature=1.0))
    _Loader(config, device).wrapped(torch.nn.Linear(1, 1))
    vocabulary, tokens = 1 << 17, 1 << 11
    assert tokens * vocabulary / made["max_logits"] == num_chunks
