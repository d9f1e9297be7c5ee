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

from configs.schema import RunConfig
from orchestration.evaluation import Evaluator
from orchestration.labels import needs_pairs
from orchestration.loop import TrainingLoop
from orchestration.preflight import Preflight, preflight
from orchestration.recovery import RecoverableLog
from orchestration.resume import config_of_run, restore, resume_notes
from orchestration.rollout_phase import RolloutPhase
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.storage import fsync_dir, storage_errors
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.report import write_report
from orchestration.weight_sync import WeightSync
from quorum.errors import Interrupted, QuorumError
from quorum.types import Role


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
        resolved, path = config_of_run(config, overrides, resume)
        checked = preflight(resolved, new_run=path is None)
        notes = resume_notes(path, resolved, checked) if path is not None else []
        prompts_hash = checked.train.content_hash()
        run_dir = RunDir.create(resolved, prompts_hash) if path is None else RunDir.resume(path, resolved)
        with run_dir.recording_end(), Display(resolved, run_dir.path, live=live) as display:
            for note in notes + dropped_notes(checked):
                display.event(note)
            num_steps = _drive(resolved, run_dir, checked, display, signals)
        report = write_report(run_dir.path)
    seconds = time.monotonic() - began
    return RunResult(run_dir.path, num_steps, run_dir.path / "model", report, seconds, resolved.run.seed)


def dropped_notes(checked: Preflight) -> list[str]:
    """A line for each kind of prompts of which some were longer than data.max_prompt_tokens."""
    sets = {"training": checked.train, "evaluation": checked.evaluation}
    return [
        f"{prompts.num_dropped_too_long:,} {kind} prompts are longer than data.max_prompt_tokens and left out"
        for kind, prompts in sets.items()
        if prompts is not None and prompts.num_dropped_too_long
    ]


def _drive(config: RunConfig, run_dir: RunDir, checked: Preflight, display: Display, signals: StopSignals) -> int:
    """Start everything, run the loop, save and stop. Returns the number of steps done."""
    with open_loop(config, run_dir, checked, display, signals) as loop:
        try:
            loop.run()
        except Interrupted:
            with signals.ignored():
                if loop.is_whole:
                    loop.save()
                else:  # a second signal, in the middle of a step
                    display.event("stopped inside an update: the last checkpoint and the group log stay as they are")
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
    plan = checked.plan
    display.phase(
        "start",
        f"Ray, {plan.num_samplers} samplers, {plan.num_ranks} learner ranks, {plan.num_replicas} voting replicas "
        f"(half a minute, more for a large model; at most {config.deadlines.start_seconds:.0f} s)",
    )
    with ExitStack() as cleanup:
        teacher = checked.teacher
        stack = Stack.start(
            config,
            checked.plan,
            run_dir.info.namespace,
            with_learner=True,
            teacher_model=teacher.model if teacher else None,
        )
        cleanup.enter_context(stopping(stack, signals))
        display.event("started: " + ", ".join(f"{k} {v:.0f} s" for k, v in sorted(stack.start_seconds.items())))
        log = start_log(run_dir.path, run_dir.info.incarnation)
        state, history, recovered = restore(config, run_dir, stack, log, display)
        audit = AuditProcess.start(run_dir.path) if config.report.audit else None
        if audit is not None:
            cleanup.callback(audit.stop, config.deadlines.stop_seconds)
        metrics = MetricsWriter(run_dir.path, tensorboard=config.report.tensorboard)
        cleanup.callback(metrics.close)
        rollout = RolloutPhase(config, stack, log, signals.check, display.event, checked.dispenser)
        evaluation = checked.evaluation.prompts if checked.evaluation else ()
        assert stack.learner is not None
        yield TrainingLoop(
            config=config,
            run_dir=run_dir,
            stack=stack,
            sync=WeightSync(config, checked.plan.device, stack.learner, stack.pool, run_dir.info.incarnation),
            rollout=rollout,
            evaluator=Evaluator(config, rollout, log, evaluation, state.branch),
            order=checked.train.order(config.run.seed, config.data.shuffle, in_pairs=needs_pairs(config)),
            log=log,
            metrics=metrics,
            audit=audit,
            display=display,
            signals=signals,
            state=state,
            history=history,
            teacher=teacher,
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
