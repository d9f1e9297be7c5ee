"""`label`: let any model answer prompts, vote, and write the labels as a table for `voting.labels: table`."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import load_config
from configs.schema import RunConfig
from orchestration.group_log import StepRecord
from orchestration.model_session import ModelSession, open_session
from orchestration.registries import registries
from orchestration.rollout_phase import fetch, train_sampling
from orchestration.storage import fsync_dir, storage_errors
from orchestration.watch.pass_rates import write_pass_rates
from quorum import __version__
from quorum.errors import StorageError
from quorum.types import GroupKey, Prompt, Resolution, Role, Tally
from voting.resolve import resolve

GROUPS_AT_ONCE = 512
"""Groups drawn, voted on and closed together."""
FILE_NAME = "labels.parquet"


@dataclass(frozen=True, slots=True)
class LabelResult:
    """A finished table."""

    path: Path
    num_prompts: int
    num_labels: int
    agreement_mean: float
    """Over the labelled prompts; 0 without any."""
    seed: int
    pass_rates: Path | None = None
    """Of the audit, apart from the labels; None where no prompt has a reference, or the audit is off."""


def label(
    model: str,
    data: str,
    *,
    num_completions: int,
    temperature: float,
    out: str | Path,
    preset: str = "eval",
    overrides: Sequence[str] = (),
    live: bool | None = None,
) -> LabelResult:
    """Draw n completions per prompt, vote, and write `labels.parquet` beside the groups.

    Once all labels are written and everything is stopped, the audit (`report.audit`) writes `audit/pass_rates.parquet`
    where the data has references: how many completions of each prompt were right.

    Args:
        model: Hugging Face directory or hub name.
        data: anything `data.train.N.path` takes. Prompts are found again by row and file name: train on the same file.
        num_completions: n.
        temperature: of the sampling.
        out: directory to make for groups and table.
        preset: preset or YAML file to start from: prompt suffix, limits, voting, samplers.
        overrides: `section.field=value` on top.
        live: show the live display; None decides by the terminal.

    Raises:
        ConfigError, DataError, ResourceError: before anything starts.
        StageError: a stage failed; groups that were closed are kept, and `quorum vote` reads them.
    """
    source = f"[{{path: {json.dumps(data)}}}]"
    words = [f"run.dir={out}", f"model.path={model}", f"evaluation.data={source}", f"data.train={source}"]
    words += [f"rollout.completions_per_prompt={num_completions}", f"rollout.temperature={temperature}"]
    # A preset may train on labels from elsewhere; here the model votes.
    config = load_config(preset, [*words, *overrides, "voting.labels=vote"], registries=registries())
    rows: list[dict[str, Any]] = []
    with open_session(config, live) as session:
        for step, start in enumerate(range(0, len(session.prompts), GROUPS_AT_ONCE)):
            session.display.phase("label", f"{start}/{len(session.prompts)} prompts")
            rows += _label_part(config, session, session.prompts[start : start + GROUPS_AT_ONCE], step, start)
        path = write_labels(session.path / FILE_NAME, rows, _provenance(config))
    rated = write_pass_rates(path.parent, config) if config.report.audit else None
    agreements = [row["agreement"] for row in rows if row["label"] is not None]
    return LabelResult(
        path=path,
        num_prompts=len(rows),
        num_labels=len(agreements),
        agreement_mean=sum(agreements) / len(agreements) if agreements else 0.0,
        seed=config.run.seed,
        pass_rates=None if rated is None else rated[0],
    )


def _label_part(
    config: RunConfig, session: ModelSession, prompts: Sequence[Prompt], step: int, first_id: int
) -> list[dict[str, Any]]:
    """Rows of some prompts, their groups closed as one file."""
    rollout = session.rollout
    keys = [GroupKey(0, Role.LABEL, first_id + place) for place in range(len(prompts))]
    sampling = train_sampling(config)
    requests = [rollout.request(key, prompt, sampling, version=0) for key, prompt in zip(keys, prompts, strict=True)]
    finished = rollout.run(requests, step)
    tallies = rollout.tallies([(key, finished[key].tally) for key in keys], step)
    rollout.settle_tallies()
    resolutions = resolve(tallies, config.voting)
    records = [
        StepRecord(key=key, tally=tally, resolution=resolution)
        for key, tally, resolution in zip(keys, tallies, resolutions, strict=True)
    ]
    closing = session.log.close_step.remote(step, 0, Role.LABEL, records, *[finished[key].group for key in keys])
    fetch([closing], config.deadlines.save_seconds, "close the labels' file", StorageError)
    return [_row(*one) for one in zip(prompts, tallies, resolutions, strict=True)]


def _row(prompt: Prompt, tally: Tally, resolution: Resolution) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "data_source": prompt.data_source,
        "label": resolution.pseudo_label,
        "agreement": resolution.agreement,
        "margin": resolution.margin,
        "num_completions": len(tally.answers),
        "num_distinct_answers": len(tally.sizes),
    }


def _provenance(config: RunConfig) -> dict[str, str]:
    return {
        "model": config.model.path,
        "num_completions": str(config.rollout.completions_per_prompt),
        "temperature": str(config.rollout.temperature),
        "rule": config.voting.rule.model_dump_json(),
        "equivalence": config.voting.equivalence.model_dump_json(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quorum": __version__,
    }


def write_labels(path: Path, rows: Sequence[dict[str, Any]], provenance: dict[str, str]) -> Path:
    """Write a table of labels, whole or not at all. Raises StorageError.

    Args:
        path: of the Parquet file.
        rows: prompt_id, label (or None), agreement and whatever else; see docs/formats.md.
        provenance: stored as the table's metadata: model, n, temperature, date.
    """
    metadata = {f"quorum.labels.{name}": value for name, value in provenance.items()}
    table = pa.Table.from_pylist(list(rows)).replace_schema_metadata(metadata)
    beside = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        with open(beside, "wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        fsync_dir(path.parent)
    return path
