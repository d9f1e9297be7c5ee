"""`train`: one run from configuration to trained model and report, or its continuation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from orchestration.attempts import RESTARTABLE, Attempts
from orchestration.budgets import budget_note, with_learned_budgets
from orchestration.export_model import write_model
from orchestration.guarding import RollbackOrdered
from orchestration.loop import TrainingLoop
from orchestration.preflight import Preflight, preflight
from orchestration.processor import has_bfloat16_units
from orchestration.resume import checkpoint_to_load, config_of_run, resume_notes
from orchestration.run_dir import RunDir
from orchestration.run_mode import dtype_notes, mode_notes
from orchestration.run_stack import OpenStack, StackRequest, own_stack
from orchestration.scaling import Scaling
from orchestration.signals import StopSignals
from orchestration.start_times import CHECKS, IMPORTS, StartTimes
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.report import write_report
from quorum.errors import Interrupted, LearnerError, RolloutError, StoppedByGuard
from quorum.types import Role


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished `train` call leaves."""

    path: Path
    """Run directory."""
    num_steps: int
    model: Path
    """Hugging Face directory of the trained model; not there after run.mode=rollout_only."""
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
    times: StartTimes | None = None,
    open_stack: OpenStack = own_stack,
) -> RunResult:
    """Train until `run.num_steps`, or continue a run.

    Args:
        config: preset name, YAML file or a RunConfig; left out with `resume`.
        overrides: `section.field=value`, as on the command line.
        resume: a run's directory or name; its configuration is read from there, `overrides` may change
            operational fields (samplers, steps, paths, deadlines), never the history's identity.
        live: show the live display; None decides by the configuration and the terminal.
        times: of a command, which began before this call.
        open_stack: where the actors come from; by default they are started and stopped for this run.

    Raises:
        ConfigError, DataError, ResourceError: before anything starts.
        StageError: a stage failed; finished groups and the last checkpoint are kept.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        StoppedByGuard: the policy collapses and the guard was told to stop then; a checkpoint was saved.
    """
    began = time.monotonic()
    times = times or StartTimes()
    times.mark(IMPORTS)
    with StopSignals() as signals:
        resolved, path = config_of_run(config, overrides, resume)
        checked = preflight(resolved, new_run=path is None)
        notes = resume_notes(path, resolved, checked) if path is not None else []
        prompts_hash = checked.prompts_hash
        run_dir = RunDir.create(resolved, prompts_hash) if path is None else RunDir.resume(path, resolved)
        with run_dir.recording_end(), Display(resolved, run_dir.path, live=live) as display:
            found = dropped_notes(checked) + mode_notes(resolved, checked)
            found += dtype_notes(resolved, checked.plan.device, has_units=has_bfloat16_units())
            for note in notes + found:
                display.event(note)
            times.mark(CHECKS)
            num_steps = _drive(resolved, run_dir, checked, display, signals, times, open_stack)
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


def _drive(
    config: RunConfig,
    run_dir: RunDir,
    checked: Preflight,
    display: Display,
    signals: StopSignals,
    times: StartTimes,
    open_stack: OpenStack,
) -> int:
    """Start everything, make attempts until one gets to the end, and stop. Returns the number of steps done."""
    with open_attempts(config, run_dir, checked, display, signals, times, open_stack) as attempts:
        while True:
            try:
                return _attempt(attempts)
            except (*RESTARTABLE, RollbackOrdered) as exc:
                end: LearnerError | RollbackOrdered = exc
            if isinstance(end, RollbackOrdered):
                attempts.roll_back(end)
            else:
                attempts.restart(end)
            del end  # its frames hold the groups of the attempt that it ended


def _attempt(attempts: Attempts) -> int:
    with attempts.open() as loop:
        return _to_the_end(loop)


def _to_the_end(loop: TrainingLoop) -> int:
    """Train what is left, save, write model/. Returns the number of steps done."""
    signals, display = loop.signals, loop.display
    try:
        loop.run()
    except (Interrupted, StoppedByGuard, RolloutError):  # also: too few samplers are left, and the learner is well
        with signals.ignored():
            if loop.is_whole:
                loop.save()
            else:  # a second signal, in the middle of a step
                display.event("stopped inside an update: the last checkpoint and the group log stay as they are")
        raise
    with signals.ignored():
        if loop.stack.learner is not None:
            display.phase("export", "model/")
            write_model(loop.stack.learner, loop.run_dir.path / "model")
        if loop.audit is not None:
            loop.audit.wait_for(loop.state.step - 1, Role.TRAIN, loop.config.deadlines.vote_seconds)
    return loop.state.step


@contextmanager
def open_attempts(
    config: RunConfig,
    run_dir: RunDir,
    checked: Preflight,
    display: Display,
    signals: StopSignals,
    times: StartTimes | None = None,
    open_stack: OpenStack = own_stack,
) -> Iterator[Attempts]:
    """Start all actors, or get them from `open_stack`; stop everything on leaving. `times` is told where the seconds
    went."""
    times = times or StartTimes()
    plan = checked.plan
    display.phase(
        "start",
        f"Ray, {plan.num_samplers} samplers, {plan.num_ranks} learner ranks, {plan.num_replicas} voting replicas "
        f"(half a minute, more for a large model; at most {config.deadlines.start_seconds:.0f} s)",
    )
    for note in budget_note(config, run_dir.path):
        display.event(note)
    config = with_learned_budgets(config, run_dir.path)
    with ExitStack() as cleanup:
        request = StackRequest(
            config=config,
            plan=plan,
            namespace=run_dir.info.namespace,
            teacher=checked.teacher,
            checkpoint=checkpoint_to_load(run_dir),
            signals=signals,
            times=times,
            say=display.event,
        )
        stack = cleanup.enter_context(open_stack(request))
        run_dir.set_address(stack.cluster.address)
        display.event("started: " + ", ".join(f"{k} {v:.0f} s" for k, v in sorted(times.parts.items())))
        audit = AuditProcess.start(run_dir.path) if config.report.audit else None
        if audit is not None:
            cleanup.callback(audit.stop, config.deadlines.stop_seconds)
        scaling = Scaling.open(config, stack, run_dir.info.namespace, display.event)
        if scaling is not None:
            scaling.phase = display.describe_phase
            cleanup.callback(scaling.close)
        yield Attempts(config, run_dir, checked, display, signals, stack, audit, scaling, times=times)


@contextmanager
def open_loop(
    config: RunConfig, run_dir: RunDir, checked: Preflight, display: Display, signals: StopSignals
) -> Iterator[TrainingLoop]:
    """Start all actors and give the loop of a single attempt, ready to run; stop everything on leaving."""
    with open_attempts(config, run_dir, checked, display, signals) as attempts, attempts.open() as loop:
        yield loop
