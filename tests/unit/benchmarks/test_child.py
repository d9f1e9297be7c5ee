"""A measured side's process: every answer is read, and its death is said with its last words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.child import Child
from quorum.errors import StageError

SECONDS = 20.0
SIDE = """
import sys, time
order = sys.stdin.readline()
if "die" in order:
    sys.exit("no memory left")
if "twice" in order:
    sys.stdout.write('{"n": 1}\\n{"n": 2}\\n{"n"')
    sys.stdout.flush()
    time.sleep(0.2)
    sys.stdout.write(': 3}\\n')
    sys.stdout.flush()
time.sleep(60)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "toy_side.py").write_text(SIDE)
    made = Child("the toy", "toy_side", {"PYTHONPATH": str(tmp_path)})
    yield made
    made.stop()


def test_answers_that_come_in_one_piece_or_in_parts_are_all_read(child: Child) -> None:
    assert child.ask({"do": "answer twice"}, SECONDS) == {"n": 1}
    assert [child.answer("more", SECONDS)["n"] for _ in range(2)] == [2, 3]
    with pytest.raises(StageError, match="did not answer 'more' within 0 s"):
        child.answer("more", 0.05)


def test_a_dead_child_is_told_of_with_its_last_words(child: Child) -> None:
    with pytest.raises(StageError, match="the toy ended while it was to 'die': no memory left"):
        child.ask({"do": "die"}, SECONDS)
    with pytest.raises(StageError, match="ended while it was to 'go on': no memory left"):
        while time.sleep(0.01) is None:  # the pipe breaks once the process is gone
            child.tell({"do": "go on"})


def test_stopping_closes_pipes_and_the_file_of_errors(child: Child) -> None:
    child.stop()
    assert child._orders.closed and child._answers.closed and child._errors.closed
