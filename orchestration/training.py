"""`train`: one run from configuration to trained model and report, or its continuation."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.identity import config_identity_hash, identity_differences
from configs.load import load_config
from configs.schema import RunConfig
from orchestration.checkpoint import LoopState, latest_checkpoint
from orchestration.evaluation import Evaluator
from orchestration.loop import TrainingLoop
from orchestration.preflight import Preflight, preflight
from orchestration.recovery import RecoverableLog, recover
from orchestration.registries import registries
from orchestration.rollout_phase import RolloutPhase
from orchestration.run_dir import RunDir, read_config, resolve_run
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.storage import fsync_dir, storage_errors
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.report import write_report
from orchestration.weight_sync import WeightSync
from quorum.errors import ConfigError, Interrupted, QuorumError
from quorum.types import GroupKey, Role


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished `train` call leaves."""

    path: Path
    """Run directory."""
    num_steps: int
    model: Path
    """Hugging Face directory of the trained model."""
    report: Path
    seconds: float
    """Wall time of this call."""
    seed: int

    def figures(self) -> dict[str, float]:
        """The RESULT line's keys: accuracy (avg@n) and majority accuracy (maj@n) at first and last, and seconds."""
        rows = current_rows(read_rows(self.path / "audit" / "eval.jsonl"))
        scored = [rows[step][-1] for step in sorted(rows) if "eval/average_accuracy" in rows[step][-1]]
        found = {"seconds": self.seconds}
        if scored:
            before, after = scored[0], scored[-1]
            found["accuracy_before"] = before["eval/average_accuracy"]
            found["accuracy_after"] = after["eval/average_accuracy"]
            found["accuracy_gain"] = found["accuracy_after"] - found["accuracy_before"]
            found["majority_before"] = before["eval/majority_accuracy"]
            found["majority_after"] = after["eval/majority_accuracy"]
        return found


def prepare(source: str | Path | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a configuration with plug-ins imported and every {name, options} checked. Raises ConfigError."""
    if isinstance(source, RunConfig):
        return source
    return load_config(source, overrides, registries=registries())


def train(
    config: str | Path | RunConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | None = None,
    live: bool | None = None,
) -> RunResult:
    """Train until `run.num_steps`, or continue a run.

    Args:
        config: preset name, YAML file or a RunConfig; left out with `resume`.
        overrides: `section.field=value`, as on the command line.
        resume: a run's directory or name; its configuration is read from there, `overrides` may change
            operational fields (samplers, steps, paths, deadlines), never the history's identity.
        live: show the live display; None decides by the configuration and the terminal.

    Raises:
        ConfigError, DataError, ResourceError: before anything starts.
        StageError: a stage failed; finished groups and the last checkpoint are kept.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
    """
    began = time.monotonic()
    with StopSignals() as signals:
        resolved, path = resolve(config, overrides, resume)
        checked = preflight(resolved, new_run=path is None)
        run_dir = RunDir.create(resolved) if path is None else RunDir.resume(path, resolved)
        with Display(resolved, run_dir.path, live=live) as display:
            try:
                num_steps = _drive(resolved, run_dir, checked, display, signals)
                report = write_report(run_dir.path)
                run_dir.set_state("done")
            except Interrupted as exc:
                run_dir.set_state("interrupted", str(exc))
                raise
            except BaseException as exc:
                run_dir.set_state("failed", f"{type(exc).__name__}: {exc}")
                raise
            finally:
                run_dir.close()
    seconds = time.monotonic() - began
    return RunResult(run_dir.path, num_steps, run_dir.path / "model", report, seconds, resolved.run.seed)


def resolve(
    config: str | Path | RunConfig | None, overrides: Sequence[str], resume: str | Path | None
) -> tuple[RunConfig, Path | None]:
    """The configuration to run, and the run directory when it continues one."""
    if resume is None:
        if config is None:
            raise ConfigError("nothing to train: name a preset or a YAML file, or continue a run with --resume RUN")
        return prepare(config, overrides), None
    path = resolve_run(str(resume))
    old = read_config(path)
    new = prepare(config if config is not None else path / "config.yaml", overrides)
    different = identity_differences(old, new)
    if different:
        raise ConfigError(
            f"resume would change what makes this run's history: {', '.join(different)}; "
            "start a new run for that, or drop the overrides"
        )
    return new, path


def _drive(config: RunConfig, run_dir: RunDir, checked: Preflight, display: Display, signals: StopSignals) -> int:
    """Start everything, run the loop, save and stop. Returns the number of steps done."""
    with open_loop(config, run_dir, checked, display, signals) as loop:
        try:
            loop.run()
        except Interrupted:
            with signals.ignored():
                loop.save()
            raise
        with signals.ignored():
            display.phase("export", "model/")
            _export(loop.stack, run_dir.path)
            if loop.audit is not None:
                loop.audit.wait_for(loop.state.step - 1, Role.TRAIN, config.deadlines.vote_seconds)
        return loop.state.step


@contextmanager
def open_loop(
    config: RunConfig, run_dir: RunDir, checked: Preflight, display: Display, signals: StopSignals
) -> Iterator[TrainingLoop]:
    """Start all actors and give the loop, ready to run; stop everything on leaving."""
    display.phase("start", "; ".join(line.strip() for line in checked.plan.describe()[-1:]))
    with ExitStack() as cleanup:
        stack = Stack.start(config, checked.plan, run_dir.info.namespace, with_learner=True)
        cleanup.enter_context(stopping(stack, signals))
        display.event("started: " + ", ".join(f"{k} {v:.0f} s" for k, v in sorted(stack.start_seconds.items())))
        log = start_log(run_dir.path, run_dir.info.incarnation)
        state, recovered = _restore(config, run_dir, stack, log, display)
        audit = AuditProcess.start(run_dir.path) if config.report.audit else None
        if audit is not None:
            cleanup.callback(audit.stop, config.deadlines.stop_seconds)
        metrics = MetricsWriter(run_dir.path, tensorboard=config.report.tensorboard)
        cleanup.callback(metrics.close)
        rollout = RolloutPhase(config, stack, log, signals.check)
        evaluation = checked.evaluation.prompts if checked.evaluation else ()
        assert stack.learner is not None
        yield TrainingLoop(
            config=config,
            run_dir=run_dir,
            stack=stack,
            sync=WeightSync(config, checked.plan.device, stack.learner, stack.pool, run_dir.info.incarnation),
            rollout=rollout,
            evaluator=Evaluator(config, rollout, log, evaluation, state.branch),
            order=checked.train.order(config.run.seed, config.data.shuffle),
            log=log,
            metrics=metrics,
            audit=audit,
            display=display,
            signals=signals,
            state=state,
            recovered=recovered,
        )


def start_log(run_path: Path, incarnation: int) -> Any:
    """The writer actor of the durable group log, on the driver's node: run directories are the driver's."""
    import ray

    actor = ray.remote(RecoverableLog).options(num_cpus=0, scheduling_strategy=_on_this_node())
    return actor.remote(str(run_path), incarnation)


def _on_this_node() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)


def _restore(
    config: RunConfig, run_dir: RunDir, stack: Stack, log: Any, display: Display
) -> tuple[LoopState, dict[GroupKey, Any]]:
    """State to go on from, and the finished groups an earlier incarnation left after it."""
    assert stack.learner is not None
    fresh = LoopState(
        step=0,
        next_group_id=0,
        version=0,
        branch=0,
        num_empty_steps=0,
        num_updates=0,
        identity_hash=config_identity_hash(config),
    )
    if run_dir.info.incarnation == 0:
        return fresh, {}
    found = latest_checkpoint(run_dir.path)
    state = fresh
    if found is not None:
        path, state = found
        stack.learner.load(str(path))
    recovered = recover(log, state.branch, Role.TRAIN, state.step, config.deadlines.save_seconds)
    display.event(f"resumed after step {state.step}, {len(recovered)} finished groups recovered from the log")
    return state, recovered


def _export(stack: Stack, run_path: Path) -> None:
    """Write model/ as a Hugging Face directory, whole or not at all."""
    assert stack.learner is not None
    final, beside = run_path / "model", run_path / ".model.tmp"
    with storage_errors(final):
        shutil.rmtree(beside, ignore_errors=True)
    stack.learner.export(str(beside))
    with storage_errors(final):
        shutil.rmtree(final, ignore_errors=True)
        os.replace(beside, final)
        fsync_dir(run_path)


@contextmanager
def stopping(stack: Stack, signals: StopSignals) -> Iterator[None]:
    """Stop the stack whatever happens; an error in stopping never hides the one that led to it."""
    try:
        yield
    except BaseException:
        with signals.ignored():
            try:
                stack.stop()
            except QuorumError as exc:
                sys.stderr.write(f"quorum: while stopping: {exc}\n")
        raise
    with signals.ignored():
        stack.stop()
