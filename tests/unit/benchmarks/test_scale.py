"""`quorum bench scale` without Ray: its figures, and the simulated samplers that share an actor."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.scale import GROUP_BYTES, K, Window, figures
from benchmarks.simulated_samplers import HostedSampler, SamplerHost, make_request, sampler_settings

pytestmark = pytest.mark.wall_clock

OPTIONS = {"seconds_per_group": 0.05, "max_running": K, "payload_bytes": GROUP_BYTES}


def test_figures_are_medians_over_windows_and_shares_of_what_one_sampler_makes() -> None:
    windows = {
        1: [Window(10.0, 10, 0.05)] * 3,
        256: [Window(1.0, 200, 0.1), Window(1.0, 250, 0.25), Window(1.0, 256, 0.256)],
        1024: [Window(2.0, 1000, 0.7), Window(2.0, 2000, 1.4), Window(2.0, 2048, 4.096)],
    }
    found = figures(windows)
    assert (found["groups_per_second_256"], found["groups_per_second_1024"]) == (250.0, 1000.0)
    assert found["linear_share_256"] == pytest.approx(250 / 256)
    assert found["controller_ms_per_group"] == found["controller_ms_per_group_at_1024"] == pytest.approx(0.7)
    assert found["linear_share_1"] == 1.0


def test_samplers_that_share_an_actor_draw_side_by_side_and_each_one_group_after_the_other() -> None:
    host = SamplerHost(sampler_settings(["a", "b"], OPTIONS))

    async def draw() -> tuple[list[str], int, float]:
        began = time.monotonic()
        calls = [host.generate((number, make_request(2 * number + i, K, 0))) for number in (0, 1) for i in (0, 1)]
        drawn = await asyncio.gather(*calls)
        assert all(receipt.content_hash == group.content_hash() for receipt, group in drawn)
        seconds = time.monotonic() - began
        size = sum(len(c.token_ids) * 8 for c in drawn[0][1].completions) + len(drawn[0][1].prompt_text)
        return [receipt.sampler_id for receipt, _ in drawn], size, seconds

    names, size, seconds = asyncio.run(draw())
    assert names == ["a", "a", "b", "b"]
    assert size == pytest.approx(GROUP_BYTES, rel=0.02)
    assert 0.1 <= seconds < 0.19
    assert asyncio.run(host.probe((0,))).tokens_generated > 0
    assert asyncio.run(host.check((1, 1.0))) is None


class _Remote:
    """Notes what Ray would be asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def options(self, **options: object) -> _Remote:
        self.asked.append(options)
        return self

    def remote(self, *arguments: object) -> None:
        self.asked.append(arguments)


def test_a_hosted_sampler_is_called_like_an_actor_of_its_own() -> None:
    host = type("Host", (), {"generate": _Remote(), "probe": _Remote(), "check": _Remote()})
    sampler = HostedSampler(host, 5)
    sampler.generate.options(num_returns=2).remote("request")
    sampler.check.remote(3.0)
    assert host.generate.asked == [{"num_returns": 2}, ((5, "request"),)]
    assert host.check.asked == [((5, 3.0),)]
