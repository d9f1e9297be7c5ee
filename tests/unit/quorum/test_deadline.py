"""Waits that end on time."""

import threading
import time

import pytest

from quorum.deadline import poll, run_within

pytestmark = pytest.mark.wall_clock


def test_a_call_that_returns_in_time_gives_its_value_or_its_error() -> None:
    assert run_within(5, lambda: 7, "a call") == 7
    assert run_within(5, lambda: None, "a call") is None
    with pytest.raises(ZeroDivisionError):
        run_within(5, lambda: 1 / 0, "a call")


def test_a_call_that_hangs_is_given_up_by_name() -> None:
    release = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"joining epoch 3 took more than 0\.05 s"):
        run_within(0.05, lambda: release.wait(30), "joining epoch 3")
    release.set()
    assert time.monotonic() - began < 5


class Event:
    """A device event that has passed after so many questions."""

    def __init__(self, num_questions: float) -> None:
        self.left = num_questions

    def query(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_polling_asks_until_the_event_has_passed() -> None:
    event = Event(3)
    poll(event.query, 5, "the broadcast")
    assert event.left == -1


def test_an_event_that_never_passes_ends_at_the_deadline() -> None:
    with pytest.raises(TimeoutError, match=r"the broadcast took more than 0\.02 s"):
        poll(Event(float("inf")).query, 0.02, "the broadcast")
