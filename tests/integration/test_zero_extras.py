"""Offload and peak memory under ZeRO, on the real stack."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.integration.learner_probes import MeasuringRank  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches, distance, read_weights  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Weights and gradient norms of two steps, by settings."""
    made = {}

    def train(**section):
        key = tuple(sorted(section.items()))
        if key not in made:
            with Ranks(make_config(model, **section)) as ranks:
                norms = [ranks.step(batch).grad_norm for batch in batches(2)]
                made[key] = ranks.weights(tmp_path_factory.mktemp("trained") / "model"), norms
        return made[key]

    return train


@pytest.mark.parametrize(
    ("zero_stage", "offload", "precision"),
    [(1, "optimizer", "float32"), (2, "optimizer", "bfloat16"), (3, "optimizer", "bfloat16"), (3, "all", "bfloat16")],
)
def test_offloading_changes_where_state_lives_not_what_is_learned(model, trained, zero_stage, offload, precision):
    plain, norms = trained(zero_stage=zero_stage, precision=precision)
    offloaded, same_norms = trained(zero_stage=zero_stage, precision=precision, offload=offload)
    assert same_norms == pytest.approx(norms, rel=1e-6)
    assert distance(offloaded, plain, read_weights(model)) <= 1e-6


@pytest.mark.parametrize("lora", [{}, {"rank": 8}])
def test_a_snapshot_needs_no_more_than_its_share_a_bucket_and_the_largest_weight(tmp_path, lora):
    """Under ZeRO-3, of 13 MB float32 weights, the largest 0.8 MB, into buckets in the samplers' type."""
    model = make_model(tmp_path / "model", hidden_size=256, num_hidden_layers=4)
    with Ranks(make_config(model, zero_stage=3, lora=lora), MeasuringRank) as ranks:
        for dtype in ("float32", "bfloat16"):
            for bucket in (1 << 20, 1 << 22):
                for held in ranks.all("snapshot_bytes", dtype, bucket):
                    assert held["kept"] > 2 * held["largest"]
                    assert held["peak"] - held["kept"] <= bucket + held["largest"]
