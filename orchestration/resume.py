"""Continuing a run: which configuration it goes on with, what a resume cannot change, and where it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.identity import bit_differences, config_identity_hash, identity_differences
from configs.schema import RunConfig
from learner.checkpoint import read_manifest
from orchestration.checkpoint import LoopState, latest_checkpoint, read_labels
from orchestration.guard_record import GuardRecord
from orchestration.guarding import settle_rollback
from orchestration.preflight import Preflight
from orchestration.prompt_pasts import label_memory
from orchestration.recovery import recover
from orchestration.registries import load_run_config
from orchestration.rollout_phase import RecoveredGroup
from orchestration.run_dir import RunDir, read_config, read_info, resolve_run
from orchestration.stack import Stack
from orchestration.watch.display import Display
from orchestration.watch.label_history import LabelHistory
from quorum.errors import ConfigError, DataError
from quorum.types import GroupKey, Role


def config_of_run(
    config: str | Path | RunConfig | None, overrides: Sequence[str], resume: str | Path | None
) -> tuple[RunConfig, Path | None]:
    """The configuration to run, and the run directory when it continues one."""
    if resume is None:
        if config is None:
            raise ConfigError("nothing to train: name a preset or a YAML file, or continue a run with --resume RUN")
        return load_run_config(config, overrides), None
    path = resolve_run(str(resume))
    old = read_config(path)
    new = load_run_config(config if config is not None else path / "config.yaml", overrides)
    different = identity_differences(old, new)
    if different:
        raise ConfigError(
            f"resume would change what makes this run's history: {', '.join(different)}; "
            "start a new run for that, or drop the overrides"
        )
    return new, path


def resume_notes(path: Path, new: RunConfig, checked: Preflight) -> list[str]:
    """Refuse what a resume cannot do, before anything of the run is touched; say what it changes.

    Raises:
        DataError: the training prompts are no longer those the run began with.
        ConfigError: the run is finished.
    """
    held = read_info(path).prompts_hash
    if not held:
        raise DataError(f"{path} holds an evaluation, not a training run: there is nothing to resume")
    if held != checked.prompts_hash:
        where = "data.train" if checked.source is None else "data.groups"
        raise DataError(
            f"the training prompts are not those that run {path} began with ({where}): its groups would be taken "
            "for other prompts; bring the old data back, or start a new run from its model/"
        )
    found = latest_checkpoint(path)
    notes = _refuse_to_train_nothing(path, found[1].step, new.run.num_steps) if found is not None else []
    if changed := bit_differences(read_config(path), new):
        notes.append(f"bit equality with the run so far ends here: {', '.join(changed)} changed")
    if found is not None and new.run.mode != "rollout_only":
        manifest = read_manifest(found[0])
        layout = (manifest["num_ranks"], manifest["zero_stage"])
        if layout != (new.learner.num_ranks, new.learner.zero_stage):
            notes.append(
                f"checkpoint {found[0].name} was saved by {layout[0]} ranks at ZeRO stage {layout[1]} and is converted "
                f"to {new.learner.num_ranks} ranks at stage {new.learner.zero_stage}: later updates round differently"
            )
    return notes


def _refuse_to_train_nothing(path: Path, step: int, num_steps: int) -> list[str]:
    """A note where only the end of a run is left to do. Raises ConfigError where nothing is."""
    if step < num_steps:
        return []
    if step > num_steps or read_info(path).state == "done":
        raise ConfigError(
            f"run {path} has done {step} steps, run.num_steps is {num_steps}: there is nothing to train; set "
            f"run.num_steps to more than {step} to go on, write its report again with `quorum report {path}`, or a "
            f"checkpoint as a model with `quorum export {path} OUT`"
        )
    return [f"all {step} steps are done: only model/ and the report are written"]


def checkpoint_to_load(run_dir: RunDir) -> Path | None:
    """What the ranks of this incarnation start from; None: the base model. Completes a rollback that was cut short."""
    settle_rollback(run_dir.path)
    found = latest_checkpoint(run_dir.path) if run_dir.info.incarnation else None
    return None if found is None else found[0]


def restore(
    config: RunConfig, run_dir: RunDir, stack: Stack, log: Any, display: Display
) -> tuple[LoopState, LabelHistory, dict[GroupKey, RecoveredGroup]]:
    """State and label history to go on from, and the finished groups an earlier incarnation left after it.

    Args:
        config: of the run.
        run_dir: opened for this incarnation.
        stack: started; its learner holds `checkpoint_to_load`.
        log: actor handle of the RecoverableLog.
        display: told what was found.
    """
    fresh = LoopState(
        step=0,
        next_group_id=0,
        version=0,
        branch=0,
        num_empty_steps=0,
        num_updates=0,
        identity_hash=config_identity_hash(config),
    )
    memory = label_memory(config.voting)
    if run_dir.info.incarnation == 0:
        return fresh, LabelHistory(memory), {}
    found = latest_checkpoint(run_dir.path)
    state, history = fresh, LabelHistory(memory)
    if found is not None:
        path, state = found
        history = LabelHistory.from_state(read_labels(path), memory)
    state = replace(state, branch=GuardRecord(run_dir.path).branch)
    recovered = recover(log, state.branch, Role.TRAIN, state.step, config.deadlines.save_seconds)
    display.event(f"resumed after step {state.step}, {len(recovered)} finished groups recovered from the log")
    if stack.teachers is not None:
        recovered |= recover(log, state.branch, Role.TEACHER, state.step, config.deadlines.save_seconds)
    return state, history, recovered
