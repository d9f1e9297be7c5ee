"""Which run is meant by a word: a directory of this machine, or the name of a submitted run."""

from __future__ import annotations

import os
from pathlib import Path

from orchestration.jobs.client import ADDRESS_VARIABLES, Job, Jobs
from orchestration.run_dir import resolve_run
from quorum.errors import ConfigError, DataError


def run_directory(run: str) -> Path:
    """Directory of a run of this machine, or of a submitted one where its directory is seen from here.

    Raises:
        ConfigError, ResourceError: see `submitted_run`.
        DataError: there is no such run, or its directory is not seen.
    """
    found = submitted_run(run, None)
    return resolve_run(run if found is None else found[1].run)


def submitted_run(run: str, address: str | None) -> tuple[Jobs, Job] | None:
    """The last submission that has the name `run`; None where it is a run of this machine.

    Args:
        run: a path, a name under runs/, or the name of a submitted run.
        address: of the cluster it was submitted to; when given, `run` is a name there. None: a run of this machine
            comes first, then the cluster that the environment names, if it names any.

    Raises:
        ConfigError: nobody submitted such a run.
        DataError: there is neither a run of this machine nor a cluster to ask.
        ResourceError: the cluster is not reached.
    """
    if address is None:
        try:
            resolve_run(run)
        except DataError:
            if "/" in run or not any(os.environ.get(name) for name in ADDRESS_VARIABLES):
                raise
        else:
            return None
    jobs = Jobs(address)
    try:
        return jobs, jobs.of_name(run)[-1]
    except ConfigError as exc:
        raise ConfigError(f"{exc}; nor is it a run directory here") from exc
