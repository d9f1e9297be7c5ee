"""What the elastic bench makes of a run."""

import pytest

from benchmarks.elastic import Elastic, lost_groups, named


@pytest.mark.parametrize(("ended", "lost"), [([0, 1, 2], 0), ([2, 0, 1], 0), ([0, 2], 1), ([0, 1, 1], 1), ([3], 3)])
def test_a_group_is_lost_when_its_id_never_ends_or_ends_twice(ended: list[int], lost: int) -> None:
    assert lost_groups(ended) == lost


def test_figures_carry_the_name_of_their_run() -> None:
    figures = named("real", Elastic((1.0, 2.0, 1.5), 9.0, 0.25, 0))
    assert figures["real_tokens_per_second_between"] == 2.0
    assert figures["real_ready_to_first_token_seconds"] == 0.25
