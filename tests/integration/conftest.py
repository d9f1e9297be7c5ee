"""Shared by tests of whole runs."""

from pathlib import Path

import pytest

from tests.integration.exact_runs import arguments, environment
from tests.integration.run_helpers import quorum


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to compare others with."""
    root = tmp_path_factory.mktemp("undisturbed")
    done = quorum(*arguments(root / "run"), env=environment(root / "peace"))
    assert done.code == 0, done.output[-3000:]
    return root / "run"
