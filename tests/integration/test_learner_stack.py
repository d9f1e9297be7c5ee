"""The learner on the real stack: DeepSpeed over Gloo, and the Ray actors around it."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ray")
pytest.importorskip("transformers")

from learner.group import LearnerGroup  # noqa: E402
from quorum.errors import DataError, LearnerError, NonFiniteLoss, ResourceError, WeightSyncError  # noqa: E402
from quorum.types import TransferInit  # noqa: E402
from tests.builders import make_group, make_scored  # noqa: E402
from tests.integration.learner_processes import Ranks, make_batch, make_config, make_model  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

STEPS = 3


def make_groups(seed=0, num_groups=5, k=4):
    rng = np.random.default_rng(seed)
    groups = []
    for group_id in range(num_groups):
        completions = [rng.integers(3, 60, int(rng.integers(2, 40))).tolist() for _ in range(k)]
        rewards = rng.integers(0, 2, k).astype(float)
        rewards[:2] = (1, 0)
        groups.append(make_scored(make_group(completions, group_id=group_id), rewards.tolist()))
    return groups


def batches(num=STEPS):
    return [make_batch(make_groups(seed), seed) for seed in range(num)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def read_weights(directory):
    from safetensors.torch import load_file

    state = load_file(directory / "model.safetensors")
    return torch.cat([state[name].reshape(-1) for name in sorted(state)])


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Weights after three steps of one rank at stage 0: what every other layout must come to."""
    with Ranks(make_config(model, num_ranks=1, zero_stage=0)) as ranks:
        for batch in batches():
            ranks.step(batch)
        return ranks.weights(tmp_path_factory.mktemp("trained") / "model")


def distance(weights, other, start):
    return float((weights - other).norm() / (weights - start).norm())


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_layout_takes_the_same_three_steps(model, trained, tmp_path, zero_stage, num_ranks):
    with Ranks(make_config(model, num_ranks=num_ranks, zero_stage=zero_stage)) as ranks:
        for batch in batches():
            sums = ranks.step(batch)
        weights = ranks.weights(tmp_path / "model")
    assert sums.grad_norm > 0
    assert distance(weights, trained, read_weights(model)) <= 1e-4


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_fresh_learner_continues_a_saved_one_bit_for_bit(model, tmp_path, zero_stage):
    """Also: an unbroken run and the same run in other processes are bit-identical."""
    config = make_config(model, zero_stage=zero_stage, warmup_steps=4)
    first, second, third = batches()
    with Ranks(config) as ranks:
        ranks.step(first)
        ranks.save(tmp_path, {"step": 1})
        ranks.step(second)
        ranks.step(third)
        unbroken = ranks.weights(tmp_path / "unbroken")
    with Ranks(config) as ranks:
        assert ranks.all("load", str(tmp_path)) == [{"step": 1}, {"step": 1}]
        ranks.step(second)
        ranks.step(third)
        resumed = ranks.weights(tmp_path / "resumed")
    with Ranks(config) as ranks:
        for batch in (first, second, third):
            ranks.step(batch)
        again = ranks.weights(tmp_path / "again")
    assert torch.equal(unbroken, resumed)
    assert torch.equal(unbroken, again)


def test_a_hand_computed_rloo_case_gives_the_expected_gradient(model, tmp_path):
    """Rewards 1, 0, 0 give advantages 1, -1/2, -1/2; the loss is -sum(A * logp) / tokens, over 2 + 1 + 3 tokens.

    The gradient is computed here by transformers and autograd alone. Adam's first step divides it by its own size,
    so every weight moves by the learning rate against its sign.
    """
    from transformers import AutoModelForCausalLM

    prompt, completions, advantages = [3, 4, 5], [[7, 8], [9], [10, 11, 12]], [1.0, -0.5, -0.5]
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loss = torch.zeros(())
    for completion, advantage in zip(completions, advantages, strict=True):
        logits = policy(torch.tensor([prompt + completion])).logits[0]
        for position, token in enumerate(completion, start=len(prompt) - 1):
            loss = loss - advantage * torch.log_softmax(logits[position], -1)[token] / 6
    loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters()}
    expected = torch.cat([gradients[name].reshape(-1) for name in sorted(gradients)])

    batch = make_batch([make_scored(make_group(completions), [1, 0, 0])])
    config = make_config(model, num_ranks=2, zero_stage=2, max_grad_norm=1e9, weight_decay=0.0, learning_rate=1e-3)
    with Ranks(config) as ranks:
        before = ranks.weights(tmp_path / "before")
        sums = ranks.step(batch)
        moved = ranks.weights(tmp_path / "after") - before
    assert sums.grad_norm == pytest.approx(float(expected.norm()), rel=1e-4)
    assert sums.loss == pytest.approx(0.0, abs=1e-6)  # (2 * 1 - 1 / 2 - 3 / 2) / 6, as every ratio is 1
    large = expected.abs() > 1e-5
    assert large.float().mean() > 0.5
    assert torch.allclose(moved[large], -1e-3 * expected[large].sign(), atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_learning_rate_zero_nothing_drifts(model, tmp_path, precision):
    with Ranks(make_config(model, num_ranks=1, learning_rate=0.0, precision=precision)) as ranks:
        before = ranks.weights(tmp_path / "before")
        for batch in batches(2):
            ranks.step(batch)
        assert torch.equal(before, ranks.weights(tmp_path / "after"))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_bfloat16_follows_float32(model, trained, tmp_path, zero_stage):
    with Ranks(make_config(model, zero_stage=zero_stage, precision="bfloat16", gradient_checkpointing=True)) as ranks:
        for batch in batches():
            ranks.step(batch)
        weights = ranks.weights(tmp_path / "model")
    assert distance(weights, trained, read_weights(model)) <= 0.3


def test_packing_and_dummies_do_not_change_the_step(model, tmp_path):
    """One by one, planned, and with more ranks than completions: the same step to 1e-5."""
    batch, lonely = batches(1)[0], make_batch([make_scored(make_group([[5, 6, 7], [8]]), [1, 0])])
    results = []
    for num_ranks, max_tokens in ((1, 1), (1, 10_000), (2, 64)):
        with Ranks(make_config(model, num_ranks=num_ranks, zero_stage=2, max_grad_norm=1e9)) as ranks:
            sums = [ranks.step(batch, max_tokens), ranks.step(lonely, max_tokens)]
            results.append([(s.loss, s.grad_norm, s.mean("entropy"), s.mean("gap")) for s in sums])
    for other in results[1:]:
        assert np.asarray(other) == pytest.approx(np.asarray(results[0]), rel=1e-5)


def test_kl_that_is_only_measured_equals_the_penalised_one_and_changes_no_bit(model, tmp_path):
    """At stage 3, where the base model's pass is a collective too."""
    batch, results = make_batch(make_groups()), []
    for kl in ({}, {"measure": True}, {"coefficient": 1e-12}):
        with Ranks(make_config(model, zero_stage=3, learning_rate=1e-2, kl=kl)) as ranks:
            sums = [ranks.step(batch) for _ in range(2)]
            results.append((sums[1].mean("kl"), ranks.weights(tmp_path / f"model-{len(results)}")))
    (unmeasured, plain), (measured, watched), (penalised, _) = results
    assert unmeasured == 0.0 and measured > 1e-3
    assert measured == pytest.approx(penalised, rel=1e-5)
    assert torch.equal(plain, watched)


def test_kl_to_the_base_is_zero_at_first_grows_and_lowers_the_reward(model):
    """At stage 3, where both passes and the frozen base are collectives."""
    quiet = [dataclasses.replace(scored, kl_mask=False) for scored in make_groups()]
    with Ranks(make_config(model, zero_stage=3, learning_rate=1e-2, kl={"coefficient": 0.5})) as ranks:
        first = ranks.step(make_batch(make_groups()))
        second = ranks.step(make_batch(make_groups()))
        masked = ranks.step(make_batch(quiet))
    assert first.mean("kl") == pytest.approx(0, abs=1e-6)
    assert second.mean("kl") > 1e-3
    assert second.loss != pytest.approx(first.loss, rel=1e-6)  # the loss is minus the mean advantage per token
    assert masked.loss == pytest.approx(first.loss, rel=1e-6)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_loss_or_gradient_that_is_not_finite_stops_every_rank_before_the_step(model, tmp_path, zero_stage):
    infinite = make_batch([make_scored(make_group([[5, 6], [7, 8]]), [np.inf, 0])])
    huge = make_batch([make_scored(make_group([[5, 6], [7, 8]]), [3e38, -3e38])])
    for batch in (infinite, huge):
        with Ranks(make_config(model, num_ranks=2, zero_stage=zero_stage)) as ranks:
            before = ranks.weights(tmp_path / "before")
            with pytest.raises(NonFiniteLoss, match="not stepped"):
                ranks.step(batch)
            with pytest.raises(NonFiniteLoss, match="not stepped"):
                ranks.answer(1, "step")
            assert torch.equal(before, ranks.weights(tmp_path / "after"))


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield ray
    ray.shutdown()


def receive(init, manifest, into):
    """A receiver in plain torch, as the wire format describes it."""
    from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

    from quorum.wire import bucket_bytes, checksum, layout

    timeout = timedelta(seconds=init.timeout_seconds)
    store = TCPStore(init.host, init.port, init.world_size, is_master=False, timeout=timeout)
    options = ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [ProcessGroupGloo.create_device(hostname=init.host)]
    group = ProcessGroupGloo(PrefixStore(f"quorum-{init.epoch}", store), init.rank_offset, init.world_size, options)
    into["joined"] = True
    for bucket in manifest.buckets:
        flat = torch.empty(bucket_bytes(bucket), dtype=torch.uint8)
        group.broadcast(flat, 0).wait(timeout)
        for meta, place in layout(bucket):
            into[meta.name] = checksum(memoryview(flat[place].numpy()))


def send_to_two(ray, group, version, epoch):
    """Open, join and send to two receivers in threads; returns what they received."""
    manifest = group.publish(version, 0)
    host, port = group.open_transfer("gloo", epoch, 3)
    received = [{}, {}]
    init = TransferInit(
        backend="gloo", epoch=epoch, host=host, port=port, world_size=3, rank_offset=1, timeout_seconds=20
    )
    threads = [
        threading.Thread(
            target=receive, args=(dataclasses.replace(init, rank_offset=1 + i), manifest, received[i]), daemon=True
        )
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    ray.get(group.join_transfer(init), timeout=30)
    ray.get(group.send(version, epoch, 20.0), timeout=30)
    for thread in threads:
        thread.join(20)
    return received


@pytest.mark.wall_clock
def test_ranks_as_actors_train_send_save_export_and_die_by_name(cluster, model, tmp_path):
    config = make_config(model, num_ranks=2, zero_stage=2)
    config = config.model_copy(update={"sync": config.sync.model_copy(update={"bucket_mib": 1})})
    group = LearnerGroup.start(config, device="cpu")
    try:
        empty = group.update(make_batch([]))
        assert (empty.num_updates, empty.version) == (0, 0)
        refs = dataclasses.replace(batches(1)[0], groups=tuple(map(cluster.put, batches(1)[0].groups)))
        stats = group.update(refs)
        assert (stats.num_updates, stats.num_tokens, stats.clip_share) == (1, refs.num_tokens, 0.0)
        assert 0 < stats.entropy <= np.log(64) + 1e-3

        received = send_to_two(cluster, group, 1, 1)
        checksums = group.checksums(1)
        assert "model.embed_tokens.weight" in checksums and "lm_head.weight" not in checksums
        assert received == [{"joined": True, **checksums}] * 2
        with pytest.raises(WeightSyncError, match="version 9 is not held"):
            cluster.get(group.send(9, 1, 5.0), timeout=30)

        group.finish_save(group.save(str(tmp_path), {"step": 1}))
        group.export(str(tmp_path / "model"))
        check_export(tmp_path / "model", checksums)

        victim = dict(group.describe())["rank 1"]
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(LearnerError, match=rf"rank 1 \(pid {victim}\) died"):
            group.update(batches(1)[0])
        assert time.monotonic() - began < 30
    finally:
        group.stop()


def check_export(directory, checksums):
    """transformers loads it, with the bytes that were published."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learner.weights import raw_bytes
    from quorum.wire import checksum

    exported = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    assert exported.dtype == torch.float32
    assert {n: checksum(memoryview(raw_bytes(p.detach()).numpy())) for n, p in exported.named_parameters()} == checksums
    assert AutoTokenizer.from_pretrained(directory).eos_token == "1"


def test_a_start_that_cannot_succeed_says_why(cluster, model, tmp_path):
    config = make_config(model, num_ranks=1)
    config = config.model_copy(update={"deadlines": config.deadlines.model_copy(update={"start_seconds": 5.0})})
    with pytest.raises(ResourceError, match=r"rank 0 \(needs 64 CPU\) could not be placed"):
        LearnerGroup.start(config, device="cpu", actor_options=[{"num_cpus": 64}])
    missing = make_config(tmp_path / "nothing", num_ranks=1)
    with pytest.raises(DataError, match="cannot load a causal language model"):
        LearnerGroup.start(missing, device="cpu")
