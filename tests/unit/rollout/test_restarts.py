"""When lost samplers are replaced. Times are made up."""

from configs.rollout_sections import RestartSection
from rollout.restarts import HOUR_SECONDS, MAX_FAILED_STARTS, Restarts


def test_one_that_worked_is_replaced_at_once_whenever_it_is_lost() -> None:
    restarts = Restarts(RestartSection())
    assert [restarts.due(0, now, did_work=True) for now in (1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0]


def test_one_that_does_no_work_is_replaced_later_each_time_up_to_a_limit() -> None:
    restarts = Restarts(RestartSection(backoff_seconds=2, max_backoff_seconds=5))
    waits = [restarts.due(0, 10.0, did_work=False) for _ in range(5)]
    assert waits == [10.0, 12.0, 14.0, 15.0, 15.0]
    assert restarts.due(1, 10.0, did_work=False) == 10.0, "another slot has a back-off of its own"
    assert restarts.due(0, 10.0, did_work=True) == 10.0
    assert restarts.due(0, 10.0, did_work=False) == 10.0, "work done starts the count anew"


def test_the_budget_is_one_hours() -> None:
    restarts = Restarts(RestartSection(max_restarts=2))
    assert restarts.due(0, 0.0, did_work=True) is not None
    assert restarts.due(1, 60.0, did_work=True) is not None
    assert restarts.due(2, 70.0, did_work=True) is None
    assert "2 samplers were replaced within the hour (rollout.restart.max_restarts)" in restarts.why_none(2)
    assert restarts.due(2, HOUR_SECONDS + 1, did_work=True) is not None


def test_a_slot_whose_samplers_do_not_start_is_given_up() -> None:
    restarts = Restarts(RestartSection())
    for _ in range(MAX_FAILED_STARTS):
        assert restarts.due(0, 0.0, did_work=False) is not None
        restarts.note_start_failed(0)
    assert restarts.due(0, 0.0, did_work=False) is None
    assert restarts.why_none(0) == "3 replacements in a row did not start"
    restarts.note_started(0)
    assert restarts.due(0, 0.0, did_work=False) is not None
