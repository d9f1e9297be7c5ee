"""Durable writes: one translation of failed writes into StorageError, and the fsync a rename needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quorum.errors import StorageError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate a failed write into a StorageError that names the path and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageError(
                f"disk full while writing {path}: free some space, then continue with `quorum train --resume RUN`; "
                "everything written before is kept"
            ) from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; everything written before is kept"
        ) from error


def fsync_dir(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
