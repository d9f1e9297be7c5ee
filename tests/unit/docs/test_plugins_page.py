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
    (tmp_path / "my_learning.py").write_text(blocks("python")[2])
    return tmp_path


def test_the_page_has_two_modules_a_notebook_a_command_and_two_configurations() -> None:
    assert [len(blocks(language)) for language in ("python", "sh", "yaml")] == [3, 1, 2]


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


def test_the_algorithm_and_the_loss_are_found_by_the_configuration_without_torch(folder: Path) -> None:
    (folder / "my.yaml").write_text(blocks("yaml")[1])
    load = "from orchestration.registries import load_run_config; made = load_run_config('my.yaml').learner; import sys"
    done = python(folder, f"{load}; print(made.algorithm.name, made.loss.options, 'torch' in sys.modules)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "above_median {'radius': 0.3} False"
    (folder / "my.yaml").write_text(blocks("yaml")[1].replace("radius", "radios"))
    assert "did you mean learner.loss.options.radius?" in python(folder, load).stderr


def test_the_algorithm_and_the_loss_compute_what_the_page_says(folder: Path) -> None:
    """Ratios 1 and 1.2 with A = 1 and -1: -1, and 1.2 + 0.04 / 0.4; gradients -1, and 1.2 (1 + 0.2 / 0.2)."""
    pytest.importorskip("torch")
    (folder / "check.py").write_text(
        """
import my_learning, numpy as np, torch
from learner.losses.ratio import LossInputs
from learner.registry import ALGORITHMS, LOSSES
from quorum.registry import Options

mask = np.array([True, True, True, False])
print(ALGORITHMS["above_median"].target.estimate(np.array([1.0, 0.0, 0.25, 9.0]), mask, Options()).tolist())
now = torch.tensor([-1.0, -1.0 + np.log(1.2)], dtype=torch.float64, requires_grad=True)
advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
tokens = LossInputs(now, torch.tensor([-1.0, -1.0], dtype=torch.float64), advantages, torch.arange(2), 2)
found = LOSSES["spo"].target(tokens, LOSSES["spo"].options())
found.losses.sum().backward()
print(found.losses.detach().numpy().round(9).tolist(), now.grad.numpy().round(9).tolist())
assert not found.is_clipped.any()
"""
    )
    done = python(folder, "import runpy; runpy.run_path('check.py')")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["[0.75, -0.25, 0.0, 0.0]", "[-1.0, 1.3] [-1.0, 2.4]"]


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
