"""Names of submitted runs: what they may look like, and the ids of their submissions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from quorum.errors import ConfigError

_ALLOWED = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_NEAREST = 3


def check_name(name: str) -> str:
    """`name`, when it can be one: it becomes part of ids and of URLs. Raises ConfigError."""
    if not _ALLOWED.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a run: use at most 63 lower-case letters, digits, '.', '_' and '-', "
            "first and last a letter or a digit (--name NAME)"
        )
    return name


def name_of_dir(run_dir: str) -> str:
    """A name made of the last part of a run directory; the caller checks it."""
    return re.sub(r"[^a-z0-9._-]+", "-", run_dir.rstrip("/").rpartition("/")[2].lower()).strip("-._")


def submission_id(name: str, number: int) -> str:
    """Ray's id of a run's `number`-th submission, counted from 1. Ray takes each id once: of two clients that submit
    the same run at the same time one is refused."""
    return f"quorum-{name}-{number}"


def unknown(name: str, known: Iterable[str], address: str) -> ConfigError:
    """The error for a name that nobody submitted, with the nearest ones."""
    names = sorted(set(known))
    if not names:
        return ConfigError(f"no run {name!r} at {address}: nothing was submitted there with `quorum submit`")
    near = difflib.get_close_matches(name, names, _NEAREST, 0.4) or names[:_NEAREST]
    return ConfigError(f"no run {name!r} at {address}; did you mean {', '.join(near)}? `quorum status` lists all")
