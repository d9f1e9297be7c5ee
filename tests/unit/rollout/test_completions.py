import logging

import pytest

from quorum.types import GroupKey, Role, VersionSpan
from rollout.engines.completions import Load, RunningCompletion, settled_loads, version_spans


def running(version: int = 3) -> RunningCompletion:
    return RunningCompletion(GroupKey(0, Role.TRAIN, 1), 2, [Load("0", version, 0)])


def test_weights_that_sampled_no_token_leave_no_span() -> None:
    completion = running()
    completion.go_on("1", 4, 0)
    assert completion.loads == [Load("1", 4, 0)]
    completion.go_on("2", 5, 9)
    completion.go_on("3", 6, 9)
    assert completion.loads == [Load("1", 4, 0), Load("3", 6, 9)]
    assert completion.started(9) == [Load("1", 4, 0)]
    assert completion.started(10) == completion.loads


def test_the_same_version_loaded_twice_is_one_span() -> None:
    loads = [Load("0", 4, 0), Load("1", 4, 3), Load("2", 5, 7)]
    assert version_spans(loads) == (VersionSpan(4, 0), VersionSpan(5, 7))


def test_a_completion_without_tokens_has_the_span_it_began_with() -> None:
    assert settled_loads(running(), 0, [], {}) == [Load("0", 3, 0)]


def test_the_engines_account_is_trusted_and_a_difference_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    completion, versions = running(), {"0": 0, "1": 4}
    completion.go_on("1", 4, 9)
    with caplog.at_level(logging.WARNING):
        assert settled_loads(completion, 12, [("0", 0), ("1", 9)], versions) == [Load("0", 3, 0), Load("1", 4, 9)]
        assert settled_loads(completion, 12, [], versions) == [Load("0", 3, 0), Load("1", 4, 9)]
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert settled_loads(completion, 12, [("0", 0), ("1", 8)], versions) == [Load("0", 3, 0), Load("1", 4, 8)]
    assert "completion 2 of group (0, <Role.TRAIN: 'train'>, 1)" in caplog.text and "('1', 8)" in caplog.text


def test_an_account_of_loads_that_nobody_knows_is_logged_and_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert settled_loads(running(), 5, [("default", 0)], {"0": 0}) == [Load("0", 3, 0)]
    assert len(caplog.records) == 1
