"""The contract of every guard detector in the registry."""

from __future__ import annotations

import random

import pytest

from configs.schema import Plugin
from orchestration.watch.guard.registry import DETECTORS, make_detectors
from orchestration.watch.metrics import METRICS, needs_reference
from quorum.errors import ConfigError

EVERY = sorted(DETECTORS)


def metrics_of(name: str) -> list[str]:
    options = DETECTORS[name].options()
    return [getattr(options, field) for field in ("metric", "agreement") if hasattr(options, field)]


def random_rows(name: str, seed: int = 3) -> list[dict[str, float]]:
    generator = random.Random(seed)
    return [{metric: generator.random() for metric in metrics_of(name)} for _ in range(120)]


@pytest.mark.parametrize("name", EVERY)
def test_it_watches_registered_metrics_that_need_no_reference(name: str) -> None:
    assert metrics_of(name) and set(metrics_of(name)) <= METRICS.keys()
    assert not any(needs_reference(metric) for metric in metrics_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_it_abstains_without_its_metric(name: str) -> None:
    detector, _ = make_detectors([Plugin(name=name)])[name]
    assert detector.update({}, 0) is None
    assert detector.update(dict.fromkeys(metrics_of(name)), 1) is None


@pytest.mark.parametrize("name", EVERY)
def test_the_same_rows_give_the_same_readings_in_range(name: str) -> None:
    first, second = (make_detectors([Plugin(name=name)])[name][0] for _ in range(2))
    readings = [first.update(row, step) for step, row in enumerate(random_rows(name))]
    assert readings == [second.update(row, step) for step, row in enumerate(random_rows(name))]
    read = [reading for reading in readings if reading is not None]
    assert read and all(0.0 <= reading.level <= 1.0 and reading.reason for reading in read)
    assert all(reading.onset <= step for step, reading in enumerate(readings) if reading is not None)


@pytest.mark.parametrize("name", EVERY)
def test_what_never_changes_never_trips(name: str) -> None:
    detector, _ = make_detectors([Plugin(name=name)])[name]
    row = dict.fromkeys(metrics_of(name), 0.4)
    readings = [detector.update(row, step) for step in range(200)]
    assert [reading.level for reading in readings if reading is not None and reading.level > 0] == []


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (Plugin(name="modal"), "no detector is called 'modal'"),
        (Plugin(name="anchor", options={"los": 0.1}), "los"),
        (Plugin(name="anchor", options={"weight": 2.0}), "weight"),
        (Plugin(name="anchor", options={"metric": "eval/nothing"}), "not registered"),
        (Plugin(name="anchor", options={"metric": "eval/average_accuracy"}), "needs reference answers"),
    ],
)
def test_a_detector_that_cannot_be_meant_is_refused(plugin: Plugin, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_detectors([plugin])
