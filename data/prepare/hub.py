"""Rows of a set on the Hugging Face hub, through `datasets.load_dataset`; without network it says what was tried."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data.prepare.catalog import Origin
from quorum.errors import DataError

_REVISION = re.compile(r"@([0-9a-f]{40})/")


def read_hub(
    name: str, origins: Sequence[Origin], revision: str | None
) -> tuple[Origin, list[dict[str, Any]], dict[str, Any]]:
    """Rows of the first of the origins that the hub gives out, before any of their filters.

    Args:
        name: of the set, for messages.
        origins: in the order in which they are tried.
        revision: of the repository; None takes the newest. Several origins cannot share one.

    Returns:
        The origin that it was, its rows, and where they come from: repository, configuration, split, commit.

    Raises:
        DataError: none of them can be had; says which were tried, why each failed, and how to pass a local copy.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name}: loading it from the hub needs the package `datasets` (pip install datasets); or pass a local "
            "copy with --from FILE"
        ) from error
    tried = []
    for origin in origins:
        try:
            loaded = datasets.load_dataset(origin.hub, origin.configuration, split=origin.split, revision=revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            tried.append(f"{described(origin)}: {_one_line(error)}")
            continue
        provenance = {
            "kind": "hub",
            "hub": origin.hub,
            "configuration": origin.configuration,
            "split": origin.split,
            "revision": _commit_of(loaded, revision),
        }
        return origin, loaded.to_list(), provenance
    raise DataError(
        f"{name}: the hub gave none of what was tried: {'; '.join(tried)}. Without network, fetch one of them "
        f"elsewhere and pass it: quorum data prepare {name} --from FILE_OR_DIRECTORY (JSON, JSONL, Parquet, CSV; other "
        "column names with --columns prompt=...,answer=...)"
    )


def described(origin: Origin) -> str:
    """Repository, configuration and split in one word."""
    configuration = f":{origin.configuration}" if origin.configuration else ""
    return f"{origin.hub}{configuration}[{origin.split}]"


def _commit_of(loaded: Any, revision: str | None) -> str | None:
    """The commit that files were fetched from, by their addresses; the revision asked for where none tells."""
    for address in (loaded.info.download_checksums or {}) if loaded.info else {}:
        found = _REVISION.search(str(address))
        if found:
            return found.group(1)
    return revision


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
