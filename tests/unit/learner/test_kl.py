"""KL estimators by hand."""

import math

import pytest

torch = pytest.importorskip("torch")

from learner.kl import kl_per_token  # noqa: E402


@pytest.mark.parametrize(("estimator", "expected"), [("k1", -0.5), ("k2", 0.125), ("k3", math.exp(0.5) - 0.5 - 1)])
def test_an_estimator_of_one_token(estimator, expected):
    value = kl_per_token(torch.tensor([-1.0]), torch.tensor([-1.5]), estimator)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_equal_policies_have_no_divergence_and_extremes_stay_finite():
    for estimator in ("k1", "k2", "k3"):
        assert kl_per_token(torch.tensor([-1.0]), torch.tensor([-1.0]), estimator).item() == 0
        assert torch.isfinite(kl_per_token(torch.tensor([0.0]), torch.tensor([-1e9]), estimator)).all()
