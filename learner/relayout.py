"""Continuing from a checkpoint of another number of ranks or another ZeRO stage.

One rank cuts the checkpoint into whole parameters with their Adam state, beside it; every rank then takes what it
holds. Weights, moments and the count of updates are carried over exactly; the sums of later updates are rounded
differently, so bit equality with the unbroken run ends here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from learner.checkpoint import writing
from learner.zero import CHECKPOINT_TAG, MOMENTS, ZeroEngine, to_universal
from quorum.errors import LearnerError


def load_any_layout(engine: ZeroEngine, directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Load what `ZeroEngine.save` wrote, whatever the ranks and the stage, into a fresh engine. A collective.

    Args:
        engine: of this run.
        directory: the checkpoint; all ranks have verified its files.
        manifest: its manifest: under which ranks and stage it was saved.

    Returns:
        The `client_state` that was saved.

    Raises:
        LearnerError: it holds no state of some trained parameter.
        StorageError: there is no room for the whole parameters beside it.
    """
    zero_stage = manifest["zero_stage"]
    if (manifest["num_ranks"], zero_stage) == (engine.world_size, engine.section.zero_stage):
        return engine.load(directory)
    dist.barrier()  # all have verified their share of it
    parts = directory.with_name(f"{directory.name}.parts")
    if dist.get_rank() == 0:
        shutil.rmtree(parts, ignore_errors=True)
        with writing(parts):
            if zero_stage == 0:
                _cut_stage_0(directory, engine.trained_names(), parts)
            else:
                to_universal(directory, parts)
    dist.barrier()
    engine.restore(lambda name: _read(parts, name))
    state = torch.load(_model_states(directory, zero_stage), weights_only=False, mmap=True)["quorum"]
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(parts)
        parts.with_name("latest_universal").unlink(missing_ok=True)
    return dict(state)


def _read(parts: Path, name: str) -> dict[str, Any]:
    """Master, moments and step of one parameter, in either form that DeepSpeed's converter writes."""
    folder = parts / "zero" / name
    missing = [key for key in ("fp32", *MOMENTS) if not (folder / f"{key}.pt").is_file()]
    if missing:
        raise LearnerError(
            f"the checkpoint holds no {', '.join(missing)} of {name}: it cannot be continued with other ranks or "
            "another ZeRO stage; set learner.num_ranks and learner.zero_stage to the saved values"
        )
    state = {key: torch.load(folder / f"{key}.pt", weights_only=True, mmap=True) for key in ("fp32", *MOMENTS)}
    whole = {key: value["param"] if isinstance(value, dict) else value for key, value in state.items()}
    return {**whole, "step": _step(parts, folder)}


def _step(parts: Path, folder: Path) -> Any:
    """Adam's count of updates: beside each parameter at stages 0 to 2, once for all of them at stage 3."""
    own = folder / "step.pt"
    if own.is_file():
        return torch.load(own, weights_only=True)
    common = torch.load(parts / "zero" / "optimizer_state.pt", weights_only=False, mmap=True)
    return common["optimizer_state_dict"]["state"][0]["step"]


def _cut_stage_0(directory: Path, names: Sequence[str], parts: Path) -> None:
    """Like `to_universal`, for a checkpoint whose optimizer is whole: its state is numbered by trained parameter."""
    saved = torch.load(_model_states(directory, 0), weights_only=False, mmap=True)
    for index, state in saved["optimizer"]["state"].items():
        folder = parts / "zero" / names[index]
        folder.mkdir(parents=True)
        torch.save({"param": saved["module"][names[index]].clone()}, folder / "fp32.pt")
        for key in MOMENTS:
            torch.save({"param": state[key].clone()}, folder / f"{key}.pt")
        torch.save(state["step"], folder / "step.pt")


def _model_states(directory: Path, zero_stage: int) -> Path:
    prefix = "zero_pp_rank_0_" if zero_stage == 3 else ""
    return directory / CHECKPOINT_TAG / f"{prefix}mp_rank_00_model_states.pt"
