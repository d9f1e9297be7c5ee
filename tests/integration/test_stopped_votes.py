"""Vote-only completions that stop, from sampler to reward: fewer tokens, and what is trained on knows nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.simulated_samplers import make_request, rollout_section, sampler_settings
from configs.schema import DeadlineSection, VotingSection
from quorum.types import Outcome, Resolution, RolloutGroup, ScoredGroup
from rollout.pool import SamplerPool
from voting.resolve import resolve
from voting.service import VotingService
from voting.subset import vote_only_indices

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

VOTES, TRAINED, GROUPS = 64, 32, 4
DEADLINES = DeadlineSection(start_seconds=120, vote_seconds=60, stop_seconds=20, rollout_seconds=60)
VOTING = VotingSection.model_validate({"train": {"num_completions": TRAINED, "choose": "random"}})
# Answers agree by 0.8 on average; lengths differ much, as those of reasoning do. 16 completions make tokens at a time.
ENGINE = {
    "answers": (r"\boxed{1}", r"\boxed{2}", r"\boxed{3}"),
    "weights": (0.8, 0.1, 0.1),
    "max_thinking_tokens": 200,
    "seconds_per_token": 0.004,
    "max_running": 16,
}


@dataclass(frozen=True)
class Vote:
    """One group to its rewards."""

    group: RolloutGroup
    resolution: Resolution
    scored: ScoredGroup

    def tokens(self, *, trained: bool) -> int:
        pairs = zip(self.group.completions, self.scored.train_mask, strict=True)
        return sum(len(completion.token_ids) for completion, is_trained in pairs if is_trained == trained)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


def _vote(pool: SamplerPool, service: VotingService, voter: Any) -> list[Vote]:
    import ray

    refs: dict[int, Any] = {}
    for group_id in range(GROUPS):
        vote_only = vote_only_indices(group_id, VOTES, VOTING.train) if voter is not None else ()
        pool.submit(replace(make_request(group_id, VOTES, seed=0), vote_only=vote_only, voter=voter))
    while len(refs) < GROUPS:
        refs |= {done.request.key.group_id: done.group_ref for done in pool.pump(1.0)}
    ordered = [refs[group_id] for group_id in range(GROUPS)]
    tallies = [service.fetch(ticket) for ticket in [service.tally(ref) for ref in ordered]]
    resolutions = resolve(tallies, VOTING)
    [ticket] = service.reward(list(zip(ordered, tallies, resolutions, strict=True)))
    service.fetch(ticket)
    scored = ray.get(list(ticket.refs[1:]), timeout=30)
    return [Vote(one.group, decided, one) for decided, one in zip(resolutions, scored, strict=True)]


def test_stopping_saves_vote_only_tokens_and_changes_no_label_and_nothing_that_is_trained_on() -> None:
    service = VotingService.start(VOTING, deadlines=DEADLINES)
    voter = service.any_replica()
    pool = SamplerPool.start(
        sampler_settings(["sampler-0"], ENGINE),
        deadlines=DEADLINES,
        actor_options=[{"num_cpus": 0}],
        section=rollout_section(GROUPS, VOTES),
    )
    try:
        whole, cut = _vote(pool, service, None), _vote(pool, service, voter)
    finally:
        pool.stop(10.0)
        service.stop(10.0)
    assert service.any_replica() is None
    for one, other in zip(whole, cut, strict=True):
        assert other.resolution.pseudo_label == one.resolution.pseudo_label is not None
        assert other.resolution.agreement <= one.resolution.agreement
        mask = one.scored.train_mask
        assert np.array_equal(other.scored.train_mask, mask)
        assert mask.sum() == TRAINED
        assert np.array_equal(other.scored.rewards[mask], one.scored.rewards[mask])
        for a, b, is_trained in zip(one.group.completions, other.group.completions, mask, strict=True):
            is_equal = np.array_equal(a.token_ids, b.token_ids) and np.array_equal(
                a.rollout_logprobs, b.rollout_logprobs
            )
            assert is_equal or (not is_trained and b.finish_reason == "abort")
            assert np.array_equal(a.token_ids[: len(b.token_ids)], b.token_ids)
        stopped = [outcome is Outcome.STOPPED for outcome in other.scored.tally.outcomes]
        assert stopped == [completion.finish_reason == "abort" for completion in other.group.completions]
        assert any(stopped)
    saved = 1 - sum(vote.tokens(trained=False) for vote in cut) / sum(vote.tokens(trained=False) for vote in whole)
    assert saved >= 0.2
