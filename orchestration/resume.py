"""Continuing a run: which configuration it goes on with, what a resume cannot change, and where it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.identity import bit_differences, config_identity_hash, identity_differences
from configs.schema import RunConfig
from learner.checkpoint import read_manifest
from orchestration.checkpoint import LoopState, latest_checkpoint, read_labels
from orchestration.preflight import Preflight
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
        ConfigError: the checkpoint is of other ranks or another ZeRO stage.
    """
    held = read_info(path).prompts_hash
    if not held:
        raise DataError(f"{path} holds an evaluation, not a training run: there is nothing to resume")
    if held != checked.train.content_hash():
        raise DataError(
            f"the training prompts are not those that run {path} began with (data.train): its groups would be taken "
            "for other prompts; bring the old data back, or start a new run from its model/"
        )
    found = latest_checkpoint(path)
    if found is not None and read_info(path).state == "done" and found[1].step >= new.run.num_steps:
        raise ConfigError(
            f"run {path} is finished after {found[1].step} steps: set run.num_steps to more of them to go on, "
            f"or write its report again with `quorum report {path}`"
        )
    if found is not None:
        manifest = read_manifest(found[0])
        layout = (manifest["num_ranks"], manifest["zero_stage"])
        if layout != (new.learner.num_ranks, new.learner.zero_stage):
            raise ConfigError(
                f"checkpoint {found[0]} was saved by {layout[0]} ranks at ZeRO stage {layout[1]}, and can only be "
                f"loaded by as many: set learner.num_ranks={layout[0]} learner.zero_stage={layout[1]}"
            )
    changed = bit_differences(read_config(path), new)
    return [f"bit equality with the run so far ends here: {', '.join(changed)} changed"] if changed else []


def restore(
    config: RunConfig, run_dir: RunDir, stack: Stack, log: Any, display: Display
) -> tuple[LoopState, LabelHistory, dict[GroupKey, RecoveredGroup]]:
    """State and label history to go on from, and the finished groups an earlier incarnation left after it.

    Args:
        config: of the run.
        run_dir: opened for this incarnation.
        stack: started; its learner takes the checkpoint.
        log: actor handle of the RecoverableLog.
        display: told what was found.
    """
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
        return fresh, LabelHistory(), {}
    found = latest_checkpoint(run_dir.path)
    state, history = fresh, LabelHistory()
    if found is not None:
        path, state = found
        stack.learner.load(str(path))
        history = LabelHistory.from_state(read_labels(path))
    recovered = recover(log, state.branch, Role.TRAIN, state.step, config.deadlines.save_seconds)
    display.event(f"resumed after step {state.step}, {len(recovered)} finished groups recovered from the log")
    if stack.teachers is not None:
        recovered |= recover(log, state.branch, Role.TEACHER, state.step, config.deadlines.save_seconds)
    return state, history, recovered
