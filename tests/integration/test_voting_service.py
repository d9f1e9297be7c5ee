"""The voting service on a real Ray cluster: placement, votes, deaths, and nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import DeadlineSection, Plugin, VotingSection
from quorum.errors import ConfigError, ResourceError, VotingError
from tests.builders import make_group
from voting.resolve import resolve
from voting.service import VotingService

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
DEADLINES = DeadlineSection(start_seconds=120, vote_seconds=60, stop_seconds=20)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=3, namespace="voting-test"
    )
    yield
    ray.shutdown()


def _left_after(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


TEXTS = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{2}", "none"]
HANGING = (r"(a+)+$", "a" * 40 + "b")
"""A pattern and a text on which it backtracks for centuries."""


def section(**service: int) -> VotingSection:
    return VotingSection(equivalence=Plugin(name="math_verify"), service={"cpu_seconds": 0.5, **service})


def start(chosen: VotingSection, **options: object) -> VotingService:
    return VotingService.start(chosen, deadlines=DEADLINES, **options)  # type: ignore[arg-type]


def references(count: int, texts: list[str]) -> list[Any]:
    import ray

    return [ray.put(make_group([[1]] * len(texts), group_id=i, texts=texts)) for i in range(count)]


def test_groups_are_tallied_resolved_and_rewarded_across_replicas() -> None:
    import ray

    chosen = section(num_replicas=2)
    service = start(chosen)
    pids = service.pids
    try:
        assert service.num_replicas == 2
        assert len(pids) == 2 * 3
        refs = references(6, TEXTS)
        tallies = [service.fetch(ticket) for ticket in [service.tally(group) for group in refs]]
        assert {made.sizes for made in tallies} == {(2, 1)}
        tickets = service.reward(list(zip(refs, tallies, resolve(tallies, chosen), strict=True)))
        receipts = [receipt for ticket in tickets for receipt in service.fetch(ticket)]
        assert [receipt.group_id for receipt in receipts] == list(range(6))
        assert {receipt.reward_sum for receipt in receipts} == {2.0}
        scored = ray.get(tickets[0].refs[1], timeout=30)
        assert scored.rewards.tolist() == [1, 1, 0, 0]
        assert scored.pseudo_label == "0.5"
        assert service.reward([]) == []
    finally:
        started = time.monotonic()
        service.stop(timeout=20)
    assert time.monotonic() - started < 21
    assert _left_after(pids, 5) == []
    with pytest.raises(VotingError, match="stopped"):
        service.tally(refs[0])


def test_a_group_and_its_jury_are_tallied_together() -> None:
    chosen = section()
    service = start(chosen)
    try:
        own, jury = references(2, TEXTS)[0], references(1, [r"\boxed{2}"] * 3)[0]
        made = service.fetch(service.tally(own, provenance="teacher", jury_refs=[jury]))
        assert (made.sizes, made.jury, made.jury_provenance) == ((2, 1), (1, 1, 1), "teacher")
    finally:
        service.stop(timeout=10)


def test_a_replicas_death_loses_nothing_and_its_processes_end_with_it() -> None:
    service = start(section(num_replicas=2))
    try:
        before = service.pids
        tickets = [service.tally(group) for group in references(40, TEXTS)]
        os.kill(before[0], signal.SIGKILL)
        assert {service.fetch(ticket).sizes for ticket in tickets} == {(2, 1)}
        assert len(service.events) == 1
        assert "voter-0 died" in service.events[0]
        assert "voter-2 takes its place" in service.events[0]
        assert _left_after(before[:3], 10) == []
        again = [service.tally(group) for group in references(4, TEXTS)]
        assert {service.fetch(ticket).sizes for ticket in again} == {(2, 1)}
    finally:
        service.stop(timeout=10)


def test_a_group_that_kills_one_replica_after_the_other_ends_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deadly_extractor.py").write_text(
        "import os\n"
        "from quorum.registry import Options\n"
        "from voting.extract import EXTRACTORS, ExtractorEntry\n"
        "def read(text, options):\n"
        "    if text == 'die':\n"
        "        os._exit(1)\n"
        "    return text\n"
        "EXTRACTORS['deadly'] = ExtractorEntry(read, Options, is_linear=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = VotingSection(extractor=Plugin(name="deadly"))
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}}
    service = start(chosen, plugins=["deadly_extractor"], actor_options={"runtime_env": environment})
    try:
        bad, good = references(1, ["die"])[0], references(1, ["7"])[0]
        ticket = service.tally(bad)
        with pytest.raises(VotingError, match="voter-0, voter-1, voter-2 died one after the other"):
            service.fetch(ticket)
        assert service.fetch(service.tally(good)).answers == ("7",)
    finally:
        service.stop(timeout=10)


def test_a_hanging_answer_delays_only_its_own_group() -> None:
    chosen = VotingSection(
        extractor=Plugin(name="regex", options={"pattern": HANGING[0], "group": 0}), service={"cpu_seconds": 3.0}
    )
    service = start(chosen)
    try:
        slow = service.tally(references(1, [HANGING[1], "aaa"])[0])
        quick = [service.tally(group) for group in references(20, ["aaa", "aa", "aaa"])]
        began = time.monotonic()
        assert {service.fetch(ticket).sizes for ticket in quick} == {(2, 1)}
        assert time.monotonic() - began < 3.0
        assert not slow.is_done
        assert [outcome.value for outcome in service.fetch(slow).outcomes] == ["timed_out", "answered"]
    finally:
        service.stop(timeout=10)


def test_more_groups_than_a_replica_may_hold_wait_in_the_driver_and_a_replica_is_added() -> None:
    chosen = VotingSection(
        extractor=Plugin(name="regex", options={"pattern": HANGING[0], "group": 0}),
        service={"cpu_seconds": 1.0, "max_open_groups": 2, "max_replicas": 2},
    )
    service = start(chosen)
    try:
        tickets = [service.tally(group) for group in references(12, [HANGING[1], "aaa"])]
        assert sum(bool(ticket.refs) for ticket in tickets) == 2
        assert {service.fetch(ticket).sizes for ticket in tickets} == {(1,)}
        assert service.num_replicas == 2
        assert "voter-1 is added" in service.events[0]
    finally:
        service.stop(timeout=10)


def test_a_wrong_extractor_is_the_users_error_and_the_replica_lives_on() -> None:
    service = start(VotingSection())
    try:
        [group] = references(1, [r"\boxed{7}"] * 2)
        with pytest.raises(ConfigError, match="boxed"):
            service.fetch(service.tally(group, "boxd"))
        assert service.fetch(service.tally(group)).sizes == (2,)
        assert service.events == []
    finally:
        service.stop(timeout=10)


def test_replicas_that_cannot_be_placed_are_named_and_none_is_left() -> None:
    import ray

    deadlines = DEADLINES.model_copy(update={"start_seconds": 6})
    with pytest.raises(ResourceError, match="voter-0 was not placed or not ready within 6 s"):
        VotingService.start(VotingSection(), deadlines=deadlines, actor_options={"num_cpus": 64})
    with pytest.raises(ValueError):
        ray.get_actor("voter-0")


def test_a_wrong_plug_in_is_a_configuration_error_on_the_driver() -> None:
    with pytest.raises(ConfigError, match="majority"):
        start(VotingSection(rule=Plugin(name="majorty")))
