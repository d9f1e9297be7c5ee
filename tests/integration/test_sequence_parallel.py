"""Ranks that share sequences (Ulysses) train like one rank that has them whole."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches, distance, read_weights  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Weights and sums of three steps, by settings."""
    made = {}

    def train(**section):
        key = repr(sorted(section.items()))
        if key not in made:
            with Ranks(make_config(model, **section)) as ranks:
                sums = [ranks.step(batch) for batch in batches(3)]
                made[key] = ranks.weights(tmp_path_factory.mktemp("trained") / "model"), sums
        return made[key]

    return train


SEQUENCE_LEVEL = {"loss": {"name": "gspo"}, "updates_per_step": 2, "old_logprobs": "recompute"}
WITH_CRITIC = {"algorithm": {"name": "ppo"}, "kl": {"coefficient": 0.1}}


@pytest.mark.parametrize(
    ("num_ranks", "size", "zero_stage", "section"),
    [
        (2, 2, 0, {"kl": {"coefficient": 0.1}}),
        (2, 2, 2, SEQUENCE_LEVEL),
        (2, 2, 3, WITH_CRITIC),
        (4, 2, 2, WITH_CRITIC),
        (4, 4, 1, {"kl": {"coefficient": 0.1}}),
    ],
)
def test_ranks_that_share_sequences_equal_one(model, trained, num_ranks, size, zero_stage, section):
    """Four ranks: two groups of two, and one of four, where each of the model's two key heads serves two ranks."""
    layout = {"num_ranks": num_ranks, "zero_stage": zero_stage, "sequence_parallel_size": size}
    weights, sums = trained(**layout, **section, gradient_checkpointing=zero_stage > 1)
    expected, expected_sums = trained(num_ranks=1, zero_stage=0, **section)
    assert distance(weights, expected, read_weights(model)) <= 1e-4
    for found, wanted in zip(sums, expected_sums, strict=True):
        assert (found.num_tokens, found.num_updates) == (wanted.num_tokens, wanted.num_updates)
        assert found.loss == pytest.approx(wanted.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
        assert dict(found.sums) == pytest.approx(dict(wanted.sums), rel=1e-3, abs=1e-3)
