"""docs/plugins.md: its module, its notebook, its command and its configuration are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with our source importable, as if it were installed."""
    code = f"import sys; sys.path[1:1] = [{str(ROOT)!r}]; "
    return subprocess.run(
        [sys.executable, "-c", code + arguments[0], *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the page's module in it."""
    (tmp_path / "my_votes.py").write_text(blocks("python")[0])
    return tmp_path


def test_the_page_has_a_module_a_notebook_a_command_and_a_configuration() -> None:
    assert [len(blocks(language)) for language in ("python", "sh", "yaml")] == [2, 1, 1]


def test_the_notebook_runs_as_it_stands_also_inside_an_event_loop(folder: Path) -> None:
    (folder / "cell.py").write_text(blocks("python")[1])
    run = "import runpy; runpy.run_path('cell.py')"
    done = python(folder, run)
    assert done.returncode == 0, done.stderr[-2000:]
    looped = f"import asyncio\nasync def notebook():\n    {run}\nasyncio.run(notebook())"
    done = python(folder, "\n" + looped)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_command_compares_the_page_s_rules(folder: Path) -> None:
    rows = [
        {"prompt_id": "a", "completions": ["Answer: 1, 2", "Answer: 2,1", "Answer: 3"], "answer": "1,2"},
        {"prompt_id": "b", "completions": ["Answer: 5", "So 5", "So 5"], "answer": "5"},
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = shlex.split(blocks("sh")[0].replace("\\\n", " "))
    assert command[0] == "quorum"
    done = python(folder, "from orchestration.cli.main import run; run(sys.argv[1:])", *command[1:])
    assert done.returncode == 0, done.stderr[-2000:]
    votes = pq.read_table(folder / "votes.parquet").to_pylist()
    assert [(row["prompt_id"], row["pseudo_label"]) for row in votes] == [
        ("a", "2,1"),
        ("b", "5"),
        ("a", None),
        ("b", "5"),
    ]
    assert votes[0]["rewards"] == pytest.approx([2 / 3, 2 / 3, 0])
    assert votes[3]["rewards"] == [0, 1, 1]


def test_the_configuration_is_valid_with_the_module(folder: Path) -> None:
    (folder / "my.yaml").write_text(blocks("yaml")[0])
    done = python(
        folder,
        "from orchestration.registries import load_run_config; print(load_run_config('my.yaml').voting.rule.options)",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "{'exponent': 2}"
    (folder / "my.yaml").write_text(blocks("yaml")[0].replace("exponent: 2", "exponnt: 2"))
    wrong = python(folder, "from orchestration.registries import load_run_config; load_run_config('my.yaml')")
    assert "did you mean voting.rule.options.exponent?" in wrong.stderr
