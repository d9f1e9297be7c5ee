"""Metric sinks: what reaches each service, what a resume continues, and that a broken one ends nothing."""

from __future__ import annotations

import json
import re
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.registries import load_run_config
from orchestration.watch.metrics import METRICS, MetricsWriter
from orchestration.watch.sinks import fan_out
from orchestration.watch.sinks.fan_out import Sinks
from orchestration.watch.sinks.prometheus import exported_names
from orchestration.watch.sinks.sink import StepFacts
from quorum.errors import ConfigError
from quorum.registry import Entry

pytestmark = pytest.mark.wall_clock

ROOT = Path(__file__).parents[5]
MINIMAL: dict[str, Any] = {"model": {"path": "m"}, "data": {"train": [{"path": "p.jsonl"}]}}


def config_with(path: Path, *sinks: Any) -> RunConfig:
    return RunConfig.model_validate({**MINIMAL, "run": {"dir": str(path)}, "report": {"sinks": sinks}})


def run_dir(path: Path) -> Any:
    path.mkdir(exist_ok=True)
    return SimpleNamespace(path=path, info=SimpleNamespace(run_id="abc123"))


def log(path: Path, *sinks: Any, failed: bool = False, registry: Any = fan_out.SINKS) -> list[str]:
    """One incarnation that logs two steps, and the audit's values of the first after the second."""
    said: list[str] = []
    all_sinks = Sinks(config_with(path, *sinks), run_dir(path), said.append, registry)
    writer = MetricsWriter(path, tensorboard=False, sinks=all_sinks)
    writer.log(0, 0, 0, {"learn/loss": 1.0, "learn/kl_mean": None})
    writer.observe(StepFacts(step=0, tokens_per_second={"s0": 5.0}, devices={"s0": "cpu"}, ages=[0, 1]))
    writer.log(1, 0, 0, {"learn/loss": float("nan"), "vote/agreement_mean": 0.5})
    writer.log(0, 0, 0, {"audit/label_accuracy": 0.9})
    writer.close(failed)
    return said


class FakeWandb(types.ModuleType):
    """Takes what wandb 0.2x takes (signatures of wandb.init, Run.log, Run.define_metric, Run.finish); records it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.axes: list[tuple[str, str | None]] = []
        self.exit_codes: list[int | None] = []

    def init(
        self,
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        notes: str | None = None,
        tags: list[str] | None = None,
        config: dict[str, Any] | None = None,
        allow_val_change: bool | None = None,
        group: str | None = None,
        mode: str | None = None,
        resume: bool | str | None = None,
    ) -> FakeWandb:
        assert mode in (None, "online", "offline", "disabled") and resume in (None, "allow", "never", "must", "auto")
        self.inits.append({"project": project, "id": id, "mode": mode, "resume": resume, "config": config})
        return self

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None, "wandb drops values of a step that is over"
        self.logged.append(data)

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
        self.exit_codes.append(exit_code)


def test_wandb_gets_every_value_with_its_step_and_a_resume_continues_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = {"name": "wandb", "options": {"project": "p", "mode": "offline"}}
    assert log(tmp_path / "run", sink) == []
    assert fake.logged == [
        {"step": 0, "learn/loss": 1.0},
        {"step": 0, "sampler/s0_tokens_per_second": 5.0},
        {"step": 1, "vote/agreement_mean": 0.5},
        {"step": 0, "audit/label_accuracy": 0.9},
    ]
    assert fake.axes == [("step", None), ("*", "step")] and fake.exit_codes == [0]
    assert log(tmp_path / "run", sink, failed=True) == []
    assert [(i["id"], i["mode"], i["resume"]) for i in fake.inits] == [("abc123", "offline", "allow")] * 2
    assert fake.exit_codes == [0, 1]
    assert json.loads((tmp_path / "run" / "sinks.json").read_text()) == {"wandb": {"id": "abc123"}}


class FakeMlflowClient:
    """Takes what MlflowClient takes; one server for all clients."""

    runs: dict[str, Any] = {}
    experiments: dict[str, str] = {}

    def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        assert tracking_uri is None, "it comes from the environment"

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        self.experiments[name] = "7"
        return "7"

    def create_run(
        self, experiment_id: str, start_time: int | None = None, tags: Any = None, run_name: str | None = None
    ) -> Any:
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {"metrics": [], "params": {}, "status": ["RUNNING"], "name": run_name}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        self.runs[run_id]["status"].append(status)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id]["metrics"] += [(m.key, m.value, m.step) for m in metrics]
        self.runs[run_id]["params"] |= {p.key: p.value for p in params}

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        self.runs[run_id]["status"].append(status)


def entity(*names: str) -> Any:
    return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))


def test_mlflow_gets_every_value_and_a_resume_continues_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities: Any = types.ModuleType("mlflow.entities")
    entities.Metric, entities.Param = entity("key", "value", "timestamp", "step"), entity("key", "value")
    tracking: Any = types.ModuleType("mlflow.tracking")
    tracking.MlflowClient = FakeMlflowClient
    fakes = {"mlflow": types.ModuleType("mlflow"), "mlflow.entities": entities, "mlflow.tracking": tracking}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert log(tmp_path / "run", "mlflow", failed=True) == []
    assert log(tmp_path / "run", "mlflow") == []
    ((run_id, run),) = FakeMlflowClient.runs.items()
    expected = [("learn/loss", 1.0, 0), ("sampler/s0_tokens_per_second", 5.0, 0), ("vote/agreement_mean", 0.5, 1)]
    assert run["metrics"] == [*expected, ("audit/label_accuracy", 0.9, 0)] * 2
    assert run["status"] == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert run["params"]["model.path"] == "m" and run["name"] == "run"
    assert json.loads((tmp_path / "run" / "sinks.json").read_text()) == {"mlflow": {"run_id": run_id}}


class Broken:
    """Fails in the method that its options name; counts the calls that come after."""

    calls: list[str] = []

    def __init__(self, run: Any, options: Any) -> None:
        pass

    def open(self) -> dict[str, str]:
        return {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append("write")
        raise RuntimeError("no route to host")

    def observe(self, facts: StepFacts) -> None:
        self.calls.append("observe")

    def close(self, is_failed: bool) -> None:
        self.calls.append("close")


def test_a_sink_that_fails_is_told_once_and_not_called_again(tmp_path: Path) -> None:
    said = log(tmp_path / "run", "broken", registry={"broken": Entry(Broken)})
    assert said == ["metric sink broken is switched off, the run goes on: RuntimeError: no route to host"]
    assert Broken.calls == ["write"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3


def test_a_sink_that_hangs_delays_only_the_end_and_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hung(Broken):
        def write(self, step: int, values: Mapping[str, float]) -> None:
            release.wait(timeout=60)

    monkeypatch.setattr(fan_out, "CLOSE_SECONDS", 0.2)
    (said,) = log(tmp_path / "run", "hung", registry={"hung": Entry(Hung)})
    release.set()
    assert "did not end within 0.2 s" in said


def test_a_package_that_is_missing_is_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (said,) = log(tmp_path / "run", "wandb")
    assert "pip install wandb" in said


def test_sinks_are_checked_when_the_configuration_is_loaded() -> None:
    loaded = load_run_config("demo", ["run.dir=x", "report.sinks=[wandb, {name: mlflow}, prometheus]"])
    assert [sink.name for sink in loaded.report.sinks] == ["wandb", "mlflow", "prometheus"]
    assert load_run_config("demo", ["run.dir=x"]).report.sinks == ()
    with pytest.raises(ConfigError, match=r"report.sinks.1.name: .*'wandbb'; did you mean 'wandb'"):
        load_run_config("demo", ["run.dir=x", "report.sinks=[mlflow, wandbb]"])
    with pytest.raises(ConfigError, match=r"report.sinks.0.options.api_key"):
        load_run_config("demo", ["run.dir=x", "report.sinks=[wandb]", "report.sinks.0.options.api_key=k"])


def test_every_query_of_the_dashboard_asks_for_what_is_exported() -> None:
    dashboard = json.loads((ROOT / "configs/cluster/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked - exported_names() == set()
    assert all(re.search(r"\bray_\w+", query) for query in queries) and len(queries) > 20
    assert {f"ray_quorum_{name.replace('/', '_')}" for name in METRICS} <= exported_names()
