"""Learner checkpoints and exports on disk: complete or absent, and verified when read.

A checkpoint is written beside its place, hashed, fsynced and renamed. It needs a file system that all ranks share.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quorum.errors import LearnerError, StorageError

DIRECTORY = "learner"
MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 22
OLDER = "write the name of an older checkpoint into checkpoints/latest and resume"
ALMOST_FULL_BYTES = 1 << 22
"""With less free space than this a failed write is taken for a full disk."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def staging_directory(path: Path) -> Path:
    """Where a checkpoint is written before it is complete."""
    return path / f"{DIRECTORY}.partial"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate a failed write of weights into a StorageError with the fix.

    torch's writers raise RuntimeError for a full disk, and have freed nothing by then: the file system is asked.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        free = _free_bytes(path)
        if getattr(error, "errno", None) in _DISK_FULL or free < ALMOST_FULL_BYTES:
            raise StorageError(
                f"disk full while writing {path} ({free:,} bytes free): free some space, then continue with "
                "`quorum train --resume RUN`; everything written before is kept"
            ) from error
        if isinstance(error, OSError):
            raise StorageError(f"cannot write {path}: {error}; everything written before is kept") from error
        raise


def _free_bytes(path: Path) -> int:
    """Free space of the file system that `path`, or its nearest directory there is, stands on."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free


def clear_staging(path: Path) -> None:
    """Start from an empty staging directory. Called by one rank before the others write."""
    shutil.rmtree(staging_directory(path), ignore_errors=True)
    staging_directory(path).mkdir(parents=True)


def hash_file(path: Path) -> str:
    """blake2b-128 of a file, which is fsynced on the way."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_share(directory: Path, rank: int, world_size: int) -> dict[str, str]:
    """Hashes of this rank's share of the files below `directory`, by relative path."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(directory)): hash_file(file) for file in files[rank::world_size]}


def publish_checkpoint(path: Path, hashes: Mapping[str, str], description: Mapping[str, Any]) -> Path:
    """Write the manifest and move the staged checkpoint to its place, replacing an older one.

    Returns:
        The checkpoint's directory.

    Raises:
        StorageError: the disk refused.
    """
    staged, final = staging_directory(path), path / DIRECTORY
    with writing(final):
        manifest = staged / MANIFEST
        manifest.write_text(json.dumps({**description, "files": dict(sorted(hashes.items()))}, indent=1) + "\n")
        hash_file(manifest)
        for directory in [staged, *(d for d in staged.rglob("*") if d.is_dir())]:
            sync_directory(directory)
        replaced = final.with_name(f"{DIRECTORY}.replaced")
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        staged.rename(final)
        sync_directory(path)
        shutil.rmtree(replaced, ignore_errors=True)
    return final


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint below `path`.

    Raises:
        LearnerError: there is none: the checkpoint is missing or was never completed.
    """
    manifest = path / DIRECTORY / MANIFEST
    try:
        return dict(json.loads(manifest.read_text()))
    except (OSError, ValueError) as error:
        raise LearnerError(f"{path} holds no complete learner checkpoint ({manifest}: {error})") from error


def verify_share(path: Path, manifest: Mapping[str, Any], rank: int, world_size: int) -> None:
    """Check this rank's share of the files against the manifest.

    Raises:
        LearnerError: a file is missing or damaged; names it.
    """
    names = sorted(manifest["files"])
    for name in names[rank::world_size]:
        file = path / DIRECTORY / name
        if not file.is_file():
            raise LearnerError(f"checkpoint file {file} is missing; {OLDER}")
        if hash_file(file) != manifest["files"][name]:
            raise LearnerError(f"checkpoint file {file} is damaged: its hash is not the manifest's; {OLDER}")


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
