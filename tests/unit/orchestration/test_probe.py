"""Whether nodes see what their actors need: what is looked for where, and what is said of those that do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import RunConfig
from orchestration import probe
from orchestration.placement import NodeRoom
from orchestration.plan import ResourcePlan, make_plan
from orchestration.probe import Needs, look
from quorum.errors import ResourceError


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"run_id": "abc"}))
    return RunConfig.model_validate(
        {
            "run": {"dir": str(tmp_path / "run")},
            "model": {"path": str(tmp_path / "model")},
            "data": {"train": [{"path": "p"}]},
            "rollout": {"num_samplers": 2},
            "cluster": {"device": "cpu", "cpus_per_rank": 4},
        }
    )


@pytest.fixture
def plan(config: RunConfig) -> ResourcePlan:
    return make_plan(config)


def node(name: str, cpus: float) -> NodeRoom:
    return NodeRoom(name, "10.0.0.1", {"CPU": cpus}, {"CPU": 0.0})


def test_a_node_that_sees_everything_has_no_problem(config: RunConfig, plan: ResourcePlan) -> None:
    needs = probe.needs_of(config, plan)
    assert needs.model and needs.run and needs.run_id == "abc"
    assert look(needs) == []


def test_what_is_missing_or_another_is_said(config: RunConfig, plan: ResourcePlan, tmp_path: Path) -> None:
    needs = probe.needs_of(config, plan)
    assert look(replace(needs, model=str(tmp_path / "none"))) == [f"model.path {tmp_path / 'none'} is not there"]
    assert look(replace(needs, run=str(tmp_path / "gone"))) == [f"run.dir {tmp_path / 'gone'} is not there"]
    assert "of run abc" in look(replace(needs, run_id="def"))[0]


def test_a_node_is_asked_for_what_its_actors_need_alone(config: RunConfig, plan: ResourcePlan) -> None:
    """A head without CPUs holds nobody; a small node holds a sampler, which needs no run directory."""
    needs = Needs("/model", "/run", "abc")
    asked = probe.needs_by_node(needs, plan, [node("head", 0), node("small", 1), node("large", 8)])
    assert asked == {"small": replace(needs, run=None), "large": needs}


def test_a_hub_name_is_looked_for_nowhere(config: RunConfig, plan: ResourcePlan) -> None:
    hub = config.model_copy(update={"model": config.model.model_copy(update={"path": "Qwen/Qwen2.5-0.5B"})})
    assert probe.needs_of(hub, plan).model is None


def test_blind_nodes_are_named_with_the_way_out(
    config: RunConfig, plan: ResourcePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_ask", lambda wanted: {"large": ["run.dir /x is not there"], "other": []})
    with pytest.raises(ResourceError, match="1 of 2 nodes do not see") as caught:
        probe.check_nodes(config, plan, [node("large", 8), node("other", 8)])
    assert "node large (10.0.0.1): run.dir /x is not there" in str(caught.value)
    assert "mounted at the same path on all nodes" in str(caught.value)
