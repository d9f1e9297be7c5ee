"""Checkpoints: written beside, hashed, fsynced, renamed; only then the oldest go. `latest` names the newest whole one.

`Checkpoints` saves them and decides which are kept; the rest of this file reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema import CheckpointSection
from learner.checkpoint import DIRECTORY, MANIFEST, OLDER, hash_file
from learner.group import LearnerGroup, Saving
from orchestration.best import BestCheckpoints
from orchestration.run_dir import write_atomic
from orchestration.storage import fsync_dir, storage_errors
from quorum.errors import DataError, QuorumError

STATE_FILE = "state.json"
LABELS_FILE = "labels.json"
HASHED = (STATE_FILE, LABELS_FILE, f"{DIRECTORY}/{MANIFEST}")
"""What the checkpoint's own manifest vouches for; the learner's, where one learns, vouches for the learner's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What the loop needs besides the learner's own state to go on."""

    step: int
    """Steps done; the next step has this number."""
    next_group_id: int
    """Lowest id that has not ended."""
    version: int
    branch: int
    num_empty_steps: int
    """Steps without a trainable group, in a row."""
    num_updates: int
    identity_hash: str
    """Hash of the configuration fields that make the history."""
    alarms: tuple[str, ...] = ()
    """Metrics whose alarm has been raised and not yet rearmed."""
    ended_ahead: tuple[int, ...] = ()
    """Ids above `next_group_id` that have ended; only where rollout.carried_groups lets groups overtake."""

    @classmethod
    def read(cls, text: str) -> LoopState:
        """From the JSON that a checkpoint holds. Raises ValueError, TypeError."""
        values = json.loads(text)
        return cls(**{**values, **{name: tuple(values.get(name, ())) for name in ("alarms", "ended_ahead")}})


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A checkpoint whose files are written and not yet hashed."""

    saving: Saving | None
    """None where nothing is learned."""
    final: Path
    value: float | None
    """Of the metric that tells the best."""

    @property
    def beside(self) -> Path:
        return self.final.with_name(f".{self.final.name}.tmp")


class Checkpoints:
    """Saves a run's checkpoints beside training, at most one at a time, and prunes them.

    consumes: a learner and the loop's state between two steps.  waits for: the ranks' writes; their hashes and fsyncs
    only at `settle` or the next `save`.  unblocked by: the storage lane of the ranks.  produces: a directory that
    `latest` names once it is whole.
    """

    def __init__(self, run_path: Path, section: CheckpointSection, learner: LearnerGroup | None) -> None:
        self._folder, self._section, self._learner = run_path / "checkpoints", section, learner
        self._best = BestCheckpoints.read(self._folder, section.best_metric)
        self._unfinished: _Unfinished | None = None

    def is_due(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether to save after `step` steps: by count, or for an evaluation that is among the best.

        Args:
            step: steps done.
            values: metrics of the evaluation after as many; empty without one.
        """
        if self._section.every_steps and step % self._section.every_steps == 0:
            return True
        value = values.get(self._section.best_metric)
        return value is not None and self._best.is_among(value, self._section.keep_best)

    def save(self, state: LoopState, labels: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Write learner, loop state and the last label of every prompt after `state.step` steps.

        It is there after the next `settle`, or a `poll` that finds the ranks done; until then the older one counts.

        Args:
            state: of the loop.
            labels: by prompt id, see `LabelHistory.state`.
            values: metrics of the evaluation after the same steps; empty without one.

        Raises:
            StorageError, LearnerError: this one was not written, or the one before not completed.
        """
        self.settle()
        final = self._folder / f"step-{state.step:06d}"
        if final.exists() and _target(self._folder) == final.name:
            self._note_best(final.name, values.get(self._section.best_metric))
            return
        beside = final.with_name(f".{final.name}.tmp")
        with storage_errors(beside):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        write_atomic(beside / STATE_FILE, json.dumps(asdict(state), indent=2) + "\n")
        write_atomic(beside / LABELS_FILE, json.dumps(labels) + "\n")
        saving = None
        if self._learner is not None:
            saving = self._learner.save(str(beside), {"step": state.step, "version": state.version})
        self._unfinished = _Unfinished(saving, final, values.get(self._section.best_metric))

    def poll(self) -> None:
        """Complete the checkpoint being saved if the ranks are done with it. Raises what `settle` raises."""
        if self._unfinished is None:
            return
        saving = self._unfinished.saving
        if self._learner is None or saving is None or self._learner.has_hashed(saving):
            self.settle()

    def keep_what_is_whole(self, *, wait: bool) -> None:
        """After a failure elsewhere: complete the checkpoint being saved, if that is still possible.

        Args:
            wait: whether the ranks are alive, so that their hashes can be waited for.
        """
        with contextlib.suppress(QuorumError):  # the failure that led here is the one to tell of
            if wait:
                self.settle()
            else:
                self.poll()

    def settle(self) -> None:
        """Complete the checkpoint being saved, if there is one.

        Raises:
            StorageError, LearnerError: it is not there; the one before still is.
        """
        if self._unfinished is None:
            return
        made, self._unfinished = self._unfinished, None
        if self._learner is not None and made.saving is not None:
            self._learner.finish_save(made.saving)
        write_atomic(made.beside / MANIFEST, _manifest_text(made.beside))
        with storage_errors(made.final):
            # A whole checkpoint that `latest` does not name was left by a crash between these lines.
            shutil.rmtree(made.final, ignore_errors=True)
            os.replace(made.beside, made.final)
            fsync_dir(self._folder)
        self._note_best(made.final.name, made.value)
        write_atomic(self._folder / "latest", made.final.name + "\n")
        self._prune()

    def _note_best(self, name: str, value: float | None) -> None:
        if self._section.keep_best and value is not None:
            self._best = self._best.with_checkpoint(name, value, self._section.keep_best)
            self._best.write(self._folder)

    def _prune(self) -> None:
        """Remove all but the newest ones up to the one that `latest` names and the best, later ones, and leftovers."""
        latest = _target(self._folder) or ""
        with storage_errors(self._folder):
            whole = sorted(path.name for path in self._folder.glob("step-*"))
            past = [name for name in whole if name <= latest]
            best = self._best.names if self._section.keep_best else []
            for name in set(whole) - set(past[-self._section.keep :]) - (set(past) & set(best)):
                shutil.rmtree(self._folder / name)
            for leftover in self._folder.glob(".step-*.tmp"):
                shutil.rmtree(leftover)
        self._best = self._best.that_exist(self._folder)


def latest_checkpoint(run_path: Path) -> tuple[Path, LoopState] | None:
    """Newest whole checkpoint and its state, or None.

    Raises:
        DataError: `latest` points nowhere, or a file of it is damaged.
    """
    name = _target(run_path / "checkpoints")
    return None if name is None else read_checkpoint(run_path, name)


def checkpoint_of_step(run_path: Path, step: int) -> tuple[Path, LoopState]:
    """The checkpoint after `step` steps and its state. Raises DataError naming those there are."""
    folder = run_path / "checkpoints"
    if not (folder / f"step-{step:06d}").is_dir():
        held = ", ".join(str(int(path.name.removeprefix("step-"))) for path in sorted(folder.glob("step-*"))) or "none"
        raise DataError(f"{run_path} keeps no checkpoint after {step} steps; there are: {held} (checkpoint.keep)")
    return read_checkpoint(run_path, f"step-{step:06d}")


def read_checkpoint(run_path: Path, name: str) -> tuple[Path, LoopState]:
    """A whole checkpoint and its state, files and hashes compared. The ranks compare the learner's.

    Raises:
        DataError: it is missing or damaged; names the file.
    """
    path = run_path / "checkpoints" / name
    try:
        state = LoopState.read((path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as exc:
        raise DataError(f"checkpoint file {path / STATE_FILE} is not readable ({exc}); {OLDER}") from exc
    _verify(path)
    return path, state


def checkpoint_steps(run_path: Path) -> list[int]:
    """Steps done in each whole checkpoint that is kept, up to the one that `latest` names, in order."""
    folder = run_path / "checkpoints"
    latest = _target(folder) or ""
    names = sorted(path.name for path in folder.glob("step-*"))
    return [int(name.removeprefix("step-")) for name in names if name <= latest]


def set_back(run_path: Path, step: int, branch: int) -> None:
    """Have `latest` name the checkpoint after `step` steps, and remove later ones that are of branches before `branch`.

    Done again, it does nothing: a crash in the middle is made good by the next call.

    Args:
        run_path: run directory.
        step: steps done in the checkpoint; 0 is the base model, which has none.
        branch: that begins there.

    Raises:
        DataError: the newest checkpoint is not readable.
        StorageError: the folder could not be changed.
    """
    folder = run_path / "checkpoints"
    found = latest_checkpoint(run_path)
    if found is None or found[1].branch >= branch:
        return
    with storage_errors(folder):
        if step:
            write_atomic(folder / "latest", f"step-{step:06d}\n")
        else:
            (folder / "latest").unlink()
        for path in folder.glob("step-*"):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        fsync_dir(folder)


def read_labels(checkpoint: Path) -> dict[str, Any]:
    """`LabelHistory.state` as of a checkpoint; empty where an earlier release made it."""
    path = checkpoint / LABELS_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (OSError, ValueError) as exc:
        raise DataError(f"checkpoint file {path} is not readable ({exc}); {OLDER}") from exc


def _target(folder: Path) -> str | None:
    """Name of the checkpoint that `latest` names; None without one."""
    pointer = folder / "latest"
    return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None


def _manifest_text(checkpoint: Path) -> str:
    there = [name for name in HASHED if (checkpoint / name).exists()]
    return json.dumps({name: hash_file(checkpoint / name) for name in there}, indent=1) + "\n"


def _verify(checkpoint: Path) -> None:
    """Compare the files with the manifest, byte for byte; a checkpoint of an earlier release has none."""
    manifest = checkpoint / MANIFEST
    if not manifest.exists():
        return
    for name in HASHED:
        if f'"{name}"'.encode() in manifest.read_bytes() and not (checkpoint / name).is_file():
            raise DataError(f"checkpoint file {checkpoint / name} is missing; {OLDER}")
    held, wanted = manifest.read_bytes(), _manifest_text(checkpoint).encode()
    if held == wanted:
        return
    for name, right in json.loads(wanted).items():
        if right.encode() not in held:
            raise DataError(
                f"checkpoint file {checkpoint / name} is damaged: its hash is not the one in {manifest}; {OLDER}"
            )
    raise DataError(f"checkpoint file {manifest} is damaged; {OLDER}")
