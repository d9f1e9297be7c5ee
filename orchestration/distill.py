"""Offline training on a run's stored groups, for the comparison with what the run itself learned from them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from configs.schema import ModelSection, RunConfig
from data.model_files import check_model_dir
from orchestration.distill_pairs import Selection, majority_examples, preference_pairs, read_voted
from orchestration.run_dir import read_config, write_atomic
from orchestration.storage import storage_errors
from quorum.errors import ConfigError, DataError, ResourceError

Method = Literal["sft", "dpo", "scpo"]
METHODS: tuple[Method, ...] = ("sft", "dpo", "scpo")
FILE_NAME = "distill.json"
MIN_VOTES = {"sft": 0, "dpo": 0, "scpo": 2}
"""A pair needs more votes than this for its chosen answer, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillOptions:
    """How to train offline. Defaults are those of SRT's baselines (arXiv 2505.21444) where it names them."""

    method: Method
    model: str | None = None
    """Directory or hub name to start from, also DPO's and ScPO's reference; None: the run's base model."""
    learning_rate: float = 1e-6
    batch_size: int = 64
    """Completions (sft) or pairs per update."""
    micro_batch_size: int = 8
    epochs: float = 1.0
    max_tokens: int | None = None
    """Stop with the update that reaches so many tokens: equal compute."""
    beta: float = 0.1
    nll_weight: float = 1.0
    min_votes: int | None = None
    """A pair is kept where more than so many completions gave the chosen answer; None: MIN_VOTES."""
    steps: range | None = None
    """Steps of the run to take groups from; None takes all."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came of it."""

    path: Path
    """Hugging Face directory; distill.json in it holds all of this."""
    method: Method
    num_groups: int
    num_examples: int
    """Completions (sft) or pairs."""
    left_out: dict[str, int]
    """Groups that gave none, by reason."""
    provenances: dict[str, int]
    """Groups that gave some, by where their label came from: "majority" is the group's own vote."""
    mean_weight: float | None
    """Of the pairs; None for sft."""
    num_updates: int
    num_tokens: int
    """Tokens through the policy."""
    first_loss: float
    last_loss: float
    seconds: float
    """Of training alone."""


def distill(
    path: Path, out: Path, options: DistillOptions, *, say: Callable[[str], None] = lambda text: None
) -> Distilled:
    """Train on a run's stored groups and write a Hugging Face directory. Nothing in the run is changed.

    Reads token ids and votes alone: no reference answer, no text.

    Args:
        path: of the run.
        out: directory to make.
        options: how.
        say: told what is going on.

    Raises:
        ConfigError: contradicting options, or `out` is there already.
        ResourceError: TRL is not installed.
        DataError: the run has nothing to train on, or the model cannot be loaded.
    """
    began = time.monotonic()
    _check(out, options)
    config = read_config(path)
    section = _model(config, options)
    check_model_dir(section)
    columns, selection, weights = _columns(path, options)
    count = len(columns["prompt_ids"])
    what = "completions" if options.method == "sft" else "pairs"
    say(f"{options.method}: {count:,} {what} from {selection.num_groups:,} groups; loading {section.path}")
    result = _train(config, options, section, columns, out, say)
    made = Distilled(
        path=out,
        method=options.method,
        num_groups=selection.num_groups,
        num_examples=count,
        left_out=dict(selection.left_out),
        provenances=dict(selection.provenances),
        mean_weight=sum(weights) / len(weights) if weights else None,
        num_updates=result.num_updates,
        num_tokens=result.num_tokens,
        first_loss=result.losses[0],
        last_loss=result.losses[-1],
        seconds=result.seconds,
    )
    _describe(made, options, path, section, time.monotonic() - began)
    return made


def _check(out: Path, options: DistillOptions) -> None:
    problems = []
    if options.batch_size % options.micro_batch_size:
        problems.append(f"micro_batch_size {options.micro_batch_size} does not divide batch_size {options.batch_size}")
    if options.epochs <= 0:
        problems.append(f"epochs {options.epochs:g} trains on nothing: want more than 0")
    if out.exists():
        problems.append(f"{out} exists: choose another directory")
    if options.method == "sft" and options.min_votes is not None:
        problems.append("min_votes chooses pairs: it says nothing to sft, which takes every majority completion")
    if problems:
        raise ConfigError(problems)
    if importlib.util.find_spec("trl") is None:
        raise ResourceError("quorum distill trains with TRL, which is not installed: pip install quorum-srt[distill]")


def _model(config: RunConfig, options: DistillOptions) -> ModelSection:
    if options.model is None or options.model == config.model.path:
        return config.model
    return ModelSection(path=options.model, trust_remote_code=config.model.trust_remote_code)


def _columns(path: Path, options: DistillOptions) -> tuple[dict[str, list[Any]], Selection, list[float]]:
    """What the trainer is given, by column; the pairs' weights once more."""
    rows = read_voted(path, options.steps)
    if options.method == "sft":
        examples, selection = majority_examples(rows)
        _check_any(path, len(examples), selection)
        return (
            {
                "prompt_ids": [list(example.prompt) for example in examples],
                "completion_ids": [list(example.completion) for example in examples],
            },
            selection,
            [],
        )
    min_votes = MIN_VOTES[options.method] if options.min_votes is None else options.min_votes
    pairs, selection = preference_pairs(rows, min_votes=min_votes, seed=options.seed)
    _check_any(path, len(pairs), selection)
    columns: dict[str, list[Any]] = {
        "prompt_ids": [list(pair.prompt) for pair in pairs],
        "chosen_ids": [list(pair.chosen) for pair in pairs],
        "rejected_ids": [list(pair.rejected) for pair in pairs],
    }
    weights = [pair.weight for pair in pairs]
    return columns | ({"weight": weights} if options.method == "scpo" else {}), selection, weights


def _check_any(path: Path, count: int, selection: Selection) -> None:
    if not count:
        why = ", ".join(f"{number} groups: {reason}" for reason, number in selection.left_out.most_common())
        raise DataError(f"run {path} has nothing to train on: {why or 'its steps hold no group that was voted on'}")


def _train(
    config: RunConfig,
    options: DistillOptions,
    section: ModelSection,
    columns: dict[str, list[Any]],
    out: Path,
    say: Callable[[str], None],
) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    # Said before accelerate looks whether DeepSpeed is there, which otherwise warns that it found none.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from learner.offline import OfflineSettings, train_offline

    settings = OfflineSettings(
        method=options.method,
        model=section,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        epochs=options.epochs,
        max_tokens=options.max_tokens,
        beta=options.beta,
        nll_weight=options.nll_weight,
        seed=options.seed,
        precision=config.learner.precision,
    )
    return train_offline(settings, columns, out, getattr(torch, config.rollout.dtype), say)


def _describe(made: Distilled, options: DistillOptions, path: Path, section: ModelSection, seconds: float) -> None:
    """Write distill.json; without it the directory does not stay."""
    told = asdict(options) | {"steps": None if options.steps is None else [options.steps.start, options.steps.stop]}
    told["min_votes"] = MIN_VOTES[options.method] if options.min_votes is None else options.min_votes
    told["model"] = section.path
    facts = asdict(made) | {"path": str(made.path), "run": str(path), "options": told, "total_seconds": seconds}
    try:
        write_atomic(made.path / FILE_NAME, json.dumps(facts, indent=2) + "\n")
    except BaseException:
        with storage_errors(made.path):
            shutil.rmtree(made.path, ignore_errors=True)
        raise
