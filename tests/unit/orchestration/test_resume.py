"""What a resume refuses before anything starts: other prompts, and training nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from configs.schema import RunConfig
from data.prompts import PromptSet
from orchestration.checkpoint import LoopState
from orchestration.preflight import Preflight
from orchestration.resume import resume_notes
from orchestration.run_dir import RunDir
from quorum.errors import ConfigError, DataError
from tests.builders import make_prompt

PROMPTS = PromptSet((make_prompt(0), make_prompt(1)))
CHECKED = Preflight(plan=None, model=None, train=PROMPTS, evaluation=None)  # type: ignore[arg-type]


def config(path: Path, num_steps: int = 4) -> RunConfig:
    sections = {"model": {"path": "m"}, "data": {"train": [{"path": "p"}]}, "learner": {"num_ranks": 2}}
    return RunConfig.model_validate({**sections, "run": {"dir": str(path), "num_steps": num_steps}})


def make_run(path: Path, *, steps_done: int, state: str) -> Path:
    """A run directory whose newest checkpoint was saved after `steps_done` steps."""
    run = RunDir.create(config(path), PROMPTS.content_hash())
    folder = path / "checkpoints" / f"step-{steps_done:06d}"
    (folder / "learner").mkdir(parents=True)
    fields = dict.fromkeys(("next_group_id", "version", "branch", "num_empty_steps", "num_updates"), 0)
    (folder / "state.json").write_text(json.dumps(asdict(LoopState(step=steps_done, identity_hash="x", **fields))))
    (folder / "learner" / "manifest.json").write_text(json.dumps({"num_ranks": 2, "zero_stage": 2, "files": {}}))
    (path / "checkpoints" / "latest").write_text(folder.name)
    run.set_state(state)
    run.close()
    return path


def test_a_run_with_steps_left_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps_done=3, state="interrupted")
    assert resume_notes(run, config(run), CHECKED) == []


def test_a_finished_run_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps_done=4, state="done")
    with pytest.raises(ConfigError, match=r"nothing to train.*more than 4 .*quorum report .*quorum export"):
        resume_notes(run, config(run), CHECKED)
    assert resume_notes(run, config(run, num_steps=5), CHECKED) == []


@pytest.mark.parametrize("state", ["interrupted", "failed", "running", "done"])
def test_fewer_steps_than_were_done_are_refused_however_the_run_ended(tmp_path: Path, state: str) -> None:
    run = make_run(tmp_path / "run", steps_done=4, state=state)
    with pytest.raises(ConfigError, match=r"has done 4 steps, run.num_steps is 3: there is nothing to train"):
        resume_notes(run, config(run, num_steps=3), CHECKED)


def test_a_run_that_failed_after_its_last_step_only_writes_its_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps_done=4, state="failed")
    assert resume_notes(run, config(run), CHECKED) == ["all 4 steps are done: only model/ and the report are written"]


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps_done=3, state="interrupted")
    other = Preflight(plan=None, model=None, train=PromptSet((make_prompt(2),)), evaluation=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not those that run"):
        resume_notes(run, config(run), other)
