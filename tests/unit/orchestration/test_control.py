"""Orders to a live run: what is refused, what the actor holds, and that the driver never waits."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import RolloutSection
from orchestration.control import Control, Limits, Order, pool_status
from rollout.handle import SamplerState


def limits(**changes: object) -> Limits:
    return Limits.of(RolloutSection.model_validate({"num_samplers": 4, "min_samplers": 2} | changes))


def test_fewer_than_the_run_may_have_is_refused_with_the_way_out() -> None:
    refusal = limits().refusal(1)
    assert refusal is not None
    assert "1 sampler would be fewer than the run may have, 2 (rollout.min_samplers)" in refusal and "resume" in refusal
    assert limits().refusal(2) is None and limits().refusal(1000) is None


def test_an_autoscaling_policy_narrows_the_range() -> None:
    made = limits(autoscale={"min_samplers": 3, "max_samplers": 8})
    assert made.refusal(3) is None and made.refusal(8) is None
    assert "fewer than the run may have, 3" in (made.refusal(2) or "")
    assert "more than the run's policy allows, 8" in (made.refusal(9) or "")


def test_samplers_that_share_gpus_with_ranks_stay_as_many() -> None:
    section = RolloutSection(num_samplers=4)
    assert "cluster.colocate" in (Limits.of(section, is_colocated=True).refusal(4) or "")


def test_orders_are_taken_once_and_in_order() -> None:
    async def exchange() -> None:
        control = Control(limits())
        assert (await control.scale(3)).is_accepted and (await control.scale(5)).is_accepted
        assert not (await control.scale(1)).is_accepted
        assert await control.take_orders() == [Order(3), Order(5)]
        waiting = asyncio.ensure_future(control.take_orders())
        await asyncio.sleep(0)
        assert not waiting.done(), "taken already, nothing new"
        await control.scale(4)
        assert await asyncio.wait_for(waiting, 5) == [Order(4)]

    asyncio.run(exchange())


def test_a_question_for_orders_is_answered_in_the_end_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestration.control.HOLD_SECONDS", 0.05)

    async def exchange() -> tuple[list[Order], list[Order]]:
        control = Control(limits())
        nothing = await control.take_orders()
        await control.scale(3)
        return nothing, await control.take_orders()

    assert asyncio.run(exchange()) == ([], [Order(3)])


def test_the_answer_and_the_status_say_what_the_driver_posted() -> None:
    async def exchange() -> tuple[dict[str, Any], str, dict[str, Any]]:
        control = Control(limits())
        before = await control.status()
        await control.post({"num_wanted": 4, "num_ready": 3})
        return before, (await control.scale(6)).text, await control.status()

    before, text, after = asyncio.run(exchange())
    assert before == {} and text == "6 samplers ordered, were 4"
    assert after["num_ready"] == 3 and after["age_seconds"] >= 0


def test_a_pools_status_is_plain_data() -> None:
    samplers = [
        SimpleNamespace(sampler_id="sampler-0", state=SamplerState.READY),
        SimpleNamespace(sampler_id="sampler-1", state=SamplerState.STALE),
    ]
    roster = SimpleNamespace(num_lost=3, history=["it is lost"])
    pool: Any = SimpleNamespace(samplers=samplers, num_ready=1, num_requeued=5, roster=roster)
    status = pool_status(pool, num_wanted=2, step=7)
    assert json.loads(json.dumps(status)) == {
        "step": 7,
        "num_wanted": 2,
        "num_ready": 1,
        "num_lost": 3,
        "num_requeued": 5,
        "samplers": {"sampler-0": "ready", "sampler-1": "stale"},
        "events": ["it is lost"],
    }
