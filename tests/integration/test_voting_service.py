"""The voting service on a real Ray cluster: placement, votes, deaths, and nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import DeadlineSection, Plugin, VotingSection
from quorum.errors import ConfigError, ResourceError, VotingError
from tests.builders import make_group
from voting.rules import resolve
from voting.service import VotingService

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

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


def test_groups_are_tallied_resolved_and_rewarded_across_replicas() -> None:
    import ray

    section = VotingSection(num_replicas=2, equivalence=Plugin(name="math_verify"))
    service = VotingService.start(section, deadlines=DEADLINES, name_prefix="math")
    pids = service.pids
    try:
        assert [name for name, _ in service.describe()] == ["math-0", "math-1"]
        assert len(pids) == 2 * 3
        texts = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{2}", "none"]
        refs = [ray.put(make_group([[1]] * 4, group_id=i, texts=texts)) for i in range(6)]
        tallies = [service.fetch(ref) for ref in [service.tally(group) for group in refs]]
        assert {made.sizes for made in tallies} == {(2, 1)}
        rewarded = [service.reward(*parts) for parts in zip(refs, tallies, resolve(tallies, section), strict=True)]
        receipts = [service.fetch(receipt) for receipt, _ in rewarded]
        assert [receipt.group_id for receipt in receipts] == list(range(6))
        assert {receipt.reward_sum for receipt in receipts} == {2.0}
        scored = ray.get(rewarded[0][1], timeout=30)
        assert scored.rewards.tolist() == [1, 1, 0, 0]
        assert scored.pseudo_label == "0.5"
        service.check()
    finally:
        started = time.monotonic()
        service.stop(timeout=20)
    assert time.monotonic() - started < 21
    assert _left_after(pids, 5) == []
    with pytest.raises(VotingError, match="stopped"):
        service.tally(refs[0])


def test_a_dead_replica_is_named_and_its_workers_end_with_it() -> None:
    import ray

    section = VotingSection(equivalence=Plugin(name="math_verify"))
    service = VotingService.start(section, deadlines=DEADLINES, name_prefix="mortal")
    try:
        os.kill(service.describe()[0][1], signal.SIGKILL)
        with pytest.raises(VotingError, match=r"mortal-0 died while it owed a tally"):
            service.fetch(service.tally(ray.put(make_group([[1]] * 2))))
        with pytest.raises(VotingError, match="mortal-0"):
            service.check()
        assert _left_after(service.pids, 5) == []
    finally:
        service.stop(timeout=10)


def test_a_wrong_extractor_is_the_users_error_and_the_replica_lives_on() -> None:
    import ray

    service = VotingService.start(VotingSection(), deadlines=DEADLINES, name_prefix="exact")
    try:
        group = ray.put(make_group([[1]] * 2, texts=[r"\boxed{7}"] * 2))
        with pytest.raises(ConfigError, match="boxed"):
            service.fetch(service.tally(group, "boxd"))
        assert service.fetch(service.tally(group)).sizes == (2,)
    finally:
        service.stop(timeout=10)


def test_replicas_that_cannot_be_placed_are_named_and_none_is_left() -> None:
    import ray

    deadlines = DEADLINES.model_copy(update={"start_seconds": 6})
    with pytest.raises(ResourceError, match="huge-0 was not placed or not ready within 6 s"):
        VotingService.start(VotingSection(), deadlines=deadlines, actor_options={"num_cpus": 64}, name_prefix="huge")
    with pytest.raises(ValueError):
        ray.get_actor("huge-0")


def test_a_wrong_plug_in_is_a_configuration_error_on_the_driver() -> None:
    section = VotingSection(rule=Plugin(name="majorty"))
    with pytest.raises(ConfigError, match="majority"):
        VotingService.start(section, deadlines=DEADLINES, name_prefix="wrong")
