"""What every policy loss promises, run over the registry, and each one's formula by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.registry import LOSSES

torch = pytest.importorskip("torch")

from learner.losses.ratio import LossInputs  # noqa: E402


def compute(name: str, logprobs: Any, old: Any, advantages: Any, rows: Any = None, **options: Any):
    """(losses, gradient of their sum by the log-probabilities, clipped) as lists of N."""
    now, old, advantages = (torch.tensor(values, dtype=torch.float64) for values in (logprobs, old, advantages))
    now.requires_grad_()
    rows = torch.arange(len(now)) if rows is None else torch.tensor(rows)
    entry = LOSSES[name]
    found = entry.target(LossInputs(now, old, advantages, rows, int(rows.max()) + 1), entry.options(**options))
    assert found.losses.shape == found.is_clipped.shape == now.shape
    assert found.is_clipped.dtype == torch.bool and not found.is_clipped.requires_grad
    found.losses.sum().backward()
    return found.losses.tolist(), now.grad.tolist(), found.is_clipped.tolist()


def at_ratios(name: str, ratios: list[float], advantages: list[float], rows: Any = None, **options: Any):
    """At old log-probabilities of -2."""
    return compute(name, [math.log(r) - 2 for r in ratios], [-2.0] * len(ratios), advantages, rows, **options)


def test_policy_gradient_by_hand():
    """-A, with gradient -A, whatever sampled the token."""
    losses, gradient, clipped = at_ratios("policy_gradient", [1.0, 3.0, 0.1], [2.0, -1.0, 0.5])
    assert losses == gradient == [-2.0, 1.0, -0.5]
    assert clipped == [False] * 3


def test_ppo_clips_by_hand_on_both_sides_and_only_where_it_would_gain():
    """Bounds 0.8 and 1.3. A ratio that moved against its advantage keeps its gradient, -A ratio."""
    bounds = {"clip_low": 0.2, "clip_high": 0.3}
    losses, gradient, clipped = at_ratios("ppo_clip", [1.5, 0.5, 1.5, 0.5, 1.2], [1.0, -1.0, -1.0, 1.0, 2.0], **bounds)
    assert losses == pytest.approx([-1.3, 0.8, 1.5, -0.5, -2.4])
    assert gradient == pytest.approx([0.0, 0.0, 1.5, -0.5, -2.4])
    assert clipped == [True, True, False, False, False]


def test_ppo_s_dual_clip_by_hand():
    """Ratio 4 with A = -2: the loss 8 is bounded by 3 * 2. Positive advantages and smaller ratios are as without."""
    bounds = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
    losses, gradient, clipped = at_ratios("ppo_clip", [4.0, 2.5, 4.0, 0.5], [-2.0, -2.0, 2.0, -2.0], **bounds)
    assert losses == pytest.approx([6.0, 5.0, -2.6, 1.6])
    assert gradient == pytest.approx([0.0, 5.0, 0.0, 0.0])
    assert clipped == [True, False, True, True]


def test_gspo_by_hand_has_one_ratio_per_completion():
    """Ratios 1.1 and 1.3: s = sqrt(1.43), inside [0.8, 1.25] although a token is not; 0.5 alone: bounded to 0.8."""
    s, bounds = math.sqrt(1.1 * 1.3), {"clip_low": 0.2, "clip_high": 0.25}
    losses, gradient, clipped = at_ratios("gspo", [1.1, 1.3, 0.5], [2.0, 2.0, -1.0], [0, 0, 1], **bounds)
    assert losses == pytest.approx([-2 * s, -2 * s, 0.8])
    assert gradient == pytest.approx([-2 * s, -2 * s, 0.0])
    assert clipped == [False, False, True]


def test_gspo_clips_all_tokens_of_a_completion_or_none():
    """Ratios 1.6 and 1: s = 1.265 is above 1.25, so neither has a gradient; with A < 0 both do."""
    bounds = {"clip_low": 0.2, "clip_high": 0.25}
    s = math.sqrt(1.6)
    losses, gradient, clipped = at_ratios("gspo", [1.6, 1.0] * 2, [1.0, 1.0, -1.0, -1.0], [0, 0, 1, 1], **bounds)
    assert losses == pytest.approx([-1.25, -1.25, s, s])
    assert gradient == pytest.approx([0.0, 0.0, s, s])
    assert clipped == [True, True, False, False]


@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=20), st.floats(-30, -0.1))
def test_gspo_inside_its_range_clips_nothing_by_rounding(differences, center):
    """In float32 too: the ratio's value and its bound must be equal there, not nearly so."""
    now = torch.tensor([center] * len(differences), requires_grad=True)
    rows, entry = torch.zeros(len(differences), dtype=torch.int64), LOSSES["gspo"]
    inputs = LossInputs(now, now.detach() - torch.tensor(differences), torch.ones(len(differences)), rows, 1)
    assert not entry.target(inputs, entry.options(clip_low=0.2, clip_high=0.3)).is_clipped.any()


def test_cispo_by_hand_stops_the_gradient_of_its_weight():
    """-min(ratio, 2) A log p, at log p = log ratio - 2: the gradient is -min(ratio, 2) A, without a ratio's own."""
    losses, gradient, clipped = at_ratios("cispo", [3.0, 0.5, 3.0], [1.0, 1.0, -1.0], max_ratio=2.0)
    assert losses == pytest.approx([-2 * (math.log(3) - 2), -0.5 * (math.log(0.5) - 2), 2 * (math.log(3) - 2)])
    assert gradient == pytest.approx([-2.0, -0.5, 2.0])
    assert clipped == [True, False, True]


def test_cispo_s_lower_bound_by_hand():
    _, gradient, clipped = at_ratios("cispo", [0.1, 0.6], [1.0, 1.0], min_ratio=0.5)
    assert gradient == pytest.approx([-0.5, -0.6])
    assert clipped == [True, False]


TOKENS = st.lists(st.tuples(st.floats(-8, -0.01), st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=16)
"""(log-probability, its distance from the old one, advantage)"""


def columns(tokens: list[tuple[float, float, float]]) -> tuple[list[float], list[float], list[float]]:
    return (
        [logprob for logprob, _, _ in tokens],
        [logprob - d for logprob, d, _ in tokens],
        [advantage for _, _, advantage in tokens],
    )


@pytest.mark.parametrize("name", LOSSES)
@given(TOKENS)
def test_at_ratio_one_every_loss_has_the_policy_gradient_and_clips_nothing(name, tokens):
    """CISPO's value is -A log p, the others' -A."""
    logprobs, _, advantages = columns(tokens)
    losses, gradient, clipped = compute(name, logprobs, logprobs, advantages, [0] * len(tokens))
    wanted, plain, _ = compute("policy_gradient", logprobs, logprobs, advantages, [0] * len(tokens))
    assert gradient == plain and not any(clipped)
    if name != "cispo":
        assert losses == wanted


@given(TOKENS)
def test_gspo_is_ppo_clip_for_completions_of_one_token_with_equal_bounds(tokens):
    bounds = {"clip_low": 0.2, "clip_high": 0.3}
    one, other = (compute(name, *columns(tokens), **bounds) for name in ("gspo", "ppo_clip"))
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@given(TOKENS)
def test_clipped_tokens_have_no_gradient_but_in_cispo_and_no_advantage_means_none(name, tokens):
    logprobs, old, advantages = columns(tokens)
    _, gradient, clipped = compute(name, logprobs, old, advantages)
    if name != "cispo":
        assert all(g == 0 for g, is_clipped in zip(gradient, clipped, strict=True) if is_clipped)
    losses, gradient, _ = compute(name, logprobs, old, [0.0] * len(tokens))
    assert not any(losses) and not any(gradient)


@pytest.mark.parametrize("name", LOSSES)
@given(TOKENS, TOKENS)
def test_a_completion_s_losses_do_not_depend_on_its_company(name, tokens, company):
    """So the split into micro-batches changes nothing."""
    alone = compute(name, *columns(tokens), [0] * len(tokens))
    rows = [1] * len(company) + [0] * len(tokens)
    together = compute(name, *columns(company + tokens), rows)
    for mine, all_of_them in zip(alone, together, strict=True):
        assert mine == pytest.approx(all_of_them[len(company) :], rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_however_far_the_policy_moved(name):
    losses, gradient, _ = compute(name, [-1.0, -1000.0, -0.1], [-1000.0, -1.0, -0.1], [-1.0, 1.0, 1.0])
    assert all(map(math.isfinite, losses)) and all(map(math.isfinite, gradient))
