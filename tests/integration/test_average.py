"""The policy's moving average on the real stack: under every ZeRO stage the same lerp, in float32, saved exactly."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from quorum.errors import LearnerError  # noqa: E402
from tests.integration.learner_probes import AveragingRank  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches, read_weights  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_the_average_is_the_lerp_computed_by_hand_from_the_exported_weights(model, tmp_path, zero_stage):
    """After two steps: d * (d * w0 + (1 - d) * w1) + (1 - d) * w2."""
    with Ranks(make_config(model, zero_stage=zero_stage, average_decay=0.75), AveragingRank) as ranks:
        weights = [read_weights(model).double().numpy()]
        base_logprobs = ranks.all("average_logprobs")
        for step, batch in enumerate(batches(2)):
            ranks.step(batch)
            weights.append(ranks.weights(tmp_path / str(step)).double().numpy())
        found = ranks.all("average_weights")
        moved_logprobs = ranks.all("average_logprobs")
    expected = 0.75 * (0.75 * weights[0] + 0.25 * weights[1]) + 0.25 * weights[2]
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - expected).max() <= 2.5e-7  # two float32 roundings around 1
    assert np.abs(found[0] - weights[0]).max() > 1e-4
    assert moved_logprobs[0] == moved_logprobs[1]
    assert np.abs(np.subtract(moved_logprobs[0], base_logprobs[0])).max() > 1e-4  # the forward pass sees the new ones


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_updates_below_bfloat16_resolution_still_move_the_average(model, tmp_path, zero_stage):
    """At 1e-6 an Adam step is far below the spacing of bfloat16 around the weights of 0.02 (6e-5 to 1.2e-4)."""
    config = make_config(model, zero_stage=zero_stage, precision="bfloat16", learning_rate=1e-6, average_decay=0.5)
    with Ranks(config, AveragingRank) as ranks:
        before, start = ranks.weights(tmp_path / "before").numpy(), ranks.all("average_weights")[0]
        for batch in batches(1):
            ranks.step(batch)
        after, end = ranks.weights(tmp_path / "after").numpy(), ranks.all("average_weights")[0]
    assert np.mean(before == after) > 0.9
    moved = np.abs(end - start)
    assert np.median(moved) == pytest.approx(0.5e-6, rel=0.05)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_an_average_that_was_saved_and_loaded_continues_bit_for_bit(model, tmp_path, zero_stage):
    first, second = batches(2)
    config = make_config(model, zero_stage=zero_stage, precision="bfloat16")
    with Ranks(config, AveragingRank) as ranks:
        ranks.step(first)
        ranks.save(tmp_path / "whole")
        ranks.step(second)
        unbroken = ranks.all("average_weights")[0]
    with Ranks(config) as ranks:
        ranks.save(tmp_path / "without")
    with Ranks(config, AveragingRank) as ranks:
        ranks.all("load", str(tmp_path / "whole"))
        ranks.step(second)
        assert np.array_equal(ranks.all("average_weights")[0], unbroken)
        with pytest.raises(LearnerError, match="no moving average"):
            ranks.all("load", str(tmp_path / "without"))


def test_an_average_is_loaded_by_other_ranks_at_another_stage(model, tmp_path):
    with Ranks(make_config(model, num_ranks=2, zero_stage=3), AveragingRank) as ranks:
        ranks.step(batches(1)[0])
        ranks.all("save_average", str(tmp_path))
        saved = ranks.all("average_weights")[0]
    for num_ranks, zero_stage in ((1, 0), (3, 3)):
        with Ranks(make_config(model, num_ranks=num_ranks, zero_stage=zero_stage), AveragingRank) as ranks:
            ranks.all("load_average", str(tmp_path))
            assert np.array_equal(ranks.all("average_weights")[0], saved)


def test_the_kl_to_the_average_is_that_to_the_base_model_while_it_hardly_moves_and_none_where_it_follows(model):
    found = {}
    for name, settings in {
        "base": {"kl": {"measure": True}},
        "still": {"kl": {"measure": True, "reference": "average"}, "average_decay": 0.999999},
        "follows": {"kl": {"measure": True, "reference": "average"}, "average_decay": 1e-9},
    }.items():
        with Ranks(make_config(model, zero_stage=2, learning_rate=1e-2, **settings)) as ranks:
            found[name] = [ranks.step(batch).mean("kl") for batch in batches(2)]
    assert found["base"][1] > 1e-4
    assert found["still"] == pytest.approx(found["base"], rel=1e-3, abs=1e-6)
    assert found["follows"] == pytest.approx([0.0, 0.0], abs=1e-6)
