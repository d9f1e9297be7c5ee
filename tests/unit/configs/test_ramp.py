"""A share on a schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.ramp import Ramp
from configs.schema import VotingSection


def test_a_number_is_a_constant() -> None:
    ramp = Ramp.model_validate(0.25)
    assert [ramp.at(step) for step in (0, 1, 10**6)] == [0.25] * 3
    assert ramp == Ramp.constant(0.25)
    assert Ramp.model_validate(ramp.model_dump()) == ramp


def test_linear_and_cosine_meet_at_both_ends_and_in_the_middle() -> None:
    linear = Ramp(start=1.0, end=0.0, steps=100, begin=50)
    cosine = Ramp(start=1.0, end=0.0, steps=100, begin=50, shape="cosine")
    assert [linear.at(step) for step in (0, 50, 75, 100, 150, 500)] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert cosine.at(50) == 1.0 and cosine.at(150) == 0.0 and cosine.at(100) == pytest.approx(0.5)
    assert cosine.at(75) == pytest.approx(1 - (1 - 2**-0.5) / 2)


@given(start=st.floats(0, 1), end=st.floats(0, 1), steps=st.integers(1, 50), step=st.integers(0, 100))
def test_it_stays_between_its_ends(start: float, end: float, steps: int, step: int) -> None:
    for shape in ("linear", "cosine"):
        ramp = Ramp(start=start, end=end, steps=steps, begin=7, shape=shape)  # type: ignore[arg-type]
        assert ramp.least - 1e-12 <= ramp.at(step) <= ramp.greatest + 1e-12


def test_what_is_no_share_is_refused() -> None:
    for value in (1.5, -0.1, True, "half", {"start": 0.1}):
        with pytest.raises(ValidationError):
            Ramp.model_validate(value)


def test_a_gate_that_nobody_passes_is_refused() -> None:
    section = VotingSection.model_validate(
        {"gate": {"min_agreement": {"start": 0.1, "end": 0.8, "steps": 9}, "max_agreement": 0.7}}
    )
    [problem] = section.problems(8, vote_seconds=120)
    assert "min_agreement reaches 0.8 and max_agreement 0.7" in problem
