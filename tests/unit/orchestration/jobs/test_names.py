"""Names of submitted runs."""

import pytest

from orchestration.jobs.names import check_name, name_of_dir, submission_id, unknown
from quorum.errors import ConfigError


@pytest.mark.parametrize(("run_dir", "name"), [("/nfs/runs/My Run", "my-run"), ("/runs/a.b_c/", "a.b_c")])
def test_a_run_is_named_after_its_directory(run_dir: str, name: str) -> None:
    assert check_name(name_of_dir(run_dir)) == name


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a-", "x" * 64, "a b", "a;b"])
def test_a_name_that_would_break_an_id_or_a_url_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--name NAME"):
        check_name(name)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    assert "did you mean math-7b" in str(unknown("maths-7b", ["math-7b", "code"], "http://h:8265"))
    assert "nothing was submitted" in str(unknown("a", [], "http://h:8265"))
    assert submission_id("a", 2) == "quorum-a-2"
