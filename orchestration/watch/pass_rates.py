"""Pass rates of labelled prompts against their references: for the audit, in a file apart from the labels.

Run after the last vote, on closed group files; nothing that elects a label can read what is written here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import import_plugins
from configs.schema import RunConfig
from data.references import load_references
from orchestration.group_table import closed_files
from orchestration.storage import fsync_dir, storage_errors
from orchestration.watch.evaluate import read_scored
from orchestration.watch.grade import Grader
from quorum.types import Role

FILE_NAME = "pass_rates.parquet"
"""Under `audit/`."""


def write_pass_rates(run_dir: Path, config: RunConfig) -> tuple[Path, int] | None:
    """Score the closed label groups of a directory that `quorum label` made.

    Args:
        run_dir: with `groups/label-step-*.parquet`.
        config: of the directory; its `data.train` has the references, its `voting` the equivalence.

    Returns:
        `audit/pass_rates.parquet` (prompt_id, data_source, pass_rate, num_completions, num_correct, is_label_correct)
        and its number of rows; None where no prompt has a reference: then nothing is written.

    Raises:
        DataError: references or groups cannot be read.
        StorageError: the file cannot be written.
    """
    references = load_references(config.data.train)
    if not len(references):
        return None
    rows: list[dict[str, Any]] = []
    import_plugins(config.run.plugins)
    with Grader(config.voting) as grader:
        for file in closed_files(run_dir, Role.LABEL).values():
            for score in read_scored(file.path, references, grader):
                rows.append(
                    {
                        "prompt_id": score.prompt_id,
                        "data_source": score.data_source,
                        "pass_rate": sum(score.correct) / len(score.correct),
                        "num_completions": len(score.correct),
                        "num_correct": sum(score.correct),
                        "is_label_correct": None if score.label is None else score.label_correct,
                    }
                )
    if not rows:
        return None
    path = run_dir / "audit" / FILE_NAME
    beside = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), beside, compression="zstd")
        os.replace(beside, path)
        fsync_dir(path.parent)
    return path, len(rows)
