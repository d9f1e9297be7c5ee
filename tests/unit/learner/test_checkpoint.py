"""Checkpoints on disk: complete or absent, verified when read."""

import json

import pytest

from learner.checkpoint import (
    clear_staging,
    hash_share,
    publish_checkpoint,
    read_manifest,
    staging_directory,
    verify_share,
)
from quorum.errors import LearnerError

LAYOUT = {"num_ranks": 2, "zero_stage": 2}


def write(path, text="weights"):
    clear_staging(path)
    staged = staging_directory(path)
    (staged / "zero").mkdir()
    (staged / "zero" / "rank0.pt").write_text(text)
    (staged / "rng_0.pt").write_text("rng")
    hashes = {**hash_share(staged, 0, 2), **hash_share(staged, 1, 2)}
    return publish_checkpoint(path, hashes, LAYOUT)


def test_a_checkpoint_appears_whole_with_hashes_of_all_files(tmp_path):
    final = write(tmp_path)
    assert not staging_directory(tmp_path).exists()
    assert sorted(json.loads((final / "manifest.json").read_text())["files"]) == ["rng_0.pt", "zero/rank0.pt"]
    for rank in range(2):
        verify_share(tmp_path, read_manifest(tmp_path), rank, 2)


def test_a_second_save_replaces_the_first(tmp_path):
    write(tmp_path)
    assert (write(tmp_path, "newer") / "zero" / "rank0.pt").read_text() == "newer"


def test_a_damaged_or_missing_file_is_named(tmp_path):
    final = write(tmp_path)
    (final / "zero" / "rank0.pt").write_text("bad")
    with pytest.raises(LearnerError, match="rank0.pt is damaged"):
        verify_share(tmp_path, read_manifest(tmp_path), 0, 1)
    (final / "zero" / "rank0.pt").unlink()
    with pytest.raises(LearnerError, match="rank0.pt is missing"):
        verify_share(tmp_path, read_manifest(tmp_path), 0, 1)


def test_an_unfinished_checkpoint_is_no_checkpoint(tmp_path):
    clear_staging(tmp_path)
    with pytest.raises(LearnerError, match="no complete learner checkpoint"):
        read_manifest(tmp_path)
