"""The report and the story: complete runs, killed runs, runs without evaluation, and hostile text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestration.run_dir import read_config
from orchestration.watch.auditor import Auditor
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.report import story, write_report
from orchestration.watch.run_view import RunView
from orchestration.watch.story import clock, sentences, telling, votes_of
from quorum.errors import DataError
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run

ROOT = Path(__file__).parents[4]


class Checker(HTMLParser):
    """Fails on tags that do not nest, and collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(path: Path) -> str:
    """The page, once it is known to be well-formed and self-contained."""
    text = path.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and checker.references == []
    assert "script" not in checker.tags and not re.search(r"https?:|url\(|@import", text)
    return text


def trained_run(path: Path, *, num_steps: int = 4, with_evaluation: bool = True) -> None:
    config = make_run(path, run={"dir": str(path), "num_steps": 4})
    writer = MetricsWriter(path, tensorboard=False)
    for step in range(num_steps):
        close_step(path, config, step, {0: ["7", "7", "3", None], 1: ["1", "8", "1", "1"]}, Role.TRAIN)
        times = {f"time/{part}_seconds": 1.0 for part in ("rollout", "vote", "learn", "sync", "wait")}
        values = {"vote/agreement_mean": 0.5 + step / 10, "learn/entropy_mean": 1.0 - step / 10}
        writer.log(step, 0, 0, values | {"vote/modal_answer_share": 0.1, "time/step_seconds": 5.0} | times)
    if with_evaluation:
        before = {0: ["7", "7", "3", None], 1: ["8", "8", "8", "1"], 2: ["1", "1", "1", "9"]}
        after = {0: ["7", "7", "7", "7"], 1: ["1", "1", "1", "8"], 2: ["9", "9", "9", "9"]}
        close_step(path, config, 0, before, Role.EVAL)
        close_step(path, config, num_steps, after, Role.EVAL)
        auditor = Auditor(path, config)
        auditor.poll()
        auditor.close()


def finish(path: Path, state: str = "done", message: str = "") -> None:
    (path / "run.json").write_text(json.dumps({"state": state, "message": message}))


def test_the_report_of_a_finished_run_has_every_part(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    finish(run)
    path = write_report(run)
    assert path == run / "report.html"
    text = checked(path)
    for part in (
        "my-run",
        "4 of 4 steps",
        "Held-out accuracy",
        "Reward and agreement",
        "Entropy",
        "Time split of a step",
        "The same prompts, before and after",
        "question 1?",
        "I say 8",
        "Prompts that went from right to wrong",
        "Prompts that went from wrong to right",
        "vote/agreement_mean",
        "completions_per_prompt",
    ):
        assert part in text
    assert text.count("<svg") >= 5


def test_the_report_shows_the_transitions_and_lists_the_lost_prompts(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    finish(run)
    text = checked(write_report(run))
    matrix = text[text.index('<table class="matrix">') :]
    assert numbers(matrix) == ["1", "1", "2", "1", "0", "1", "2", "1", "3"]
    assert "right after 0 steps" in matrix and "wrong after 4 steps" in matrix
    lost = text[text.index("Prompts that went from right to wrong (1)") :]
    lost = lost[: lost.index("</table>")]
    assert "question 1?" in lost and "0: 8 (right), 4: 1 (wrong)" in lost
    assert "question 0?" not in lost and "question 2?" not in lost


def numbers(html: str) -> list[str]:
    """Cells of the first table of `html` that hold a number."""
    return re.findall(r'<td class="n">([\d,]+)</td>', html[: html.index("</table>")])


def test_the_evaluations_to_compare_can_be_named(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    middle = {0: ["7", "7", "7", "7"], 1: ["8", "8", "8", "1"], 2: ["1", "1", "1", "1"]}
    config = read_config(run)
    close_step(run, config, 2, middle, Role.EVAL)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    matrix = checked(write_report(run, (0, 2))).partition('<table class="matrix">')[2]
    assert numbers(matrix) == ["2", "0", "2", "0", "1", "1", "2", "1", "3"]
    assert "after 0 steps against after 2 steps" in story(run, (0, 2))
    assert "after 0 steps against after 4 steps" in story(run)
    with pytest.raises(DataError, match="no evaluation after 3 steps"):
        write_report(run, (0, 3))


def test_the_command_takes_the_evaluations_to_compare(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    finish(run)
    command = [sys.executable, "-m", "orchestration", "report", str(run), "--between", "0"]
    done = subprocess.run([*command, "4"], check=True, timeout=60, cwd=ROOT, capture_output=True, text=True)
    assert (
        "after 0 steps against after 4 steps" in done.stdout and "right before            1            1" in done.stdout
    )
    wrong = subprocess.run([*command, "3"], timeout=60, cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == DataError.exit_code and "there are those after 0, 4" in wrong.stderr
    assert wrong.stdout == ""


def test_accuracy_by_agreement_is_drawn_for_both_evaluations_and_for_training(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    text = checked(write_report(run))
    part = text[text.index("<h2>Accuracy against agreement</h2>") :]
    part = part[: part.index("<h2>Metrics</h2>")]
    assert re.findall(r"<h3>(.*?)</h3>", part) == [
        "Evaluation after 0 steps",
        "Evaluation after 4 steps",
        "Training, steps 0 to 3",
    ]
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", part)]
    assert len(drawings) == 3
    tips = [element.text for element in drawings[0].iter("title")]
    assert "majority, agreement at least 50%: 66.7%" in tips and "prompts kept, agreement at least 75%: 66.7%" in tips
    assert not [tip for tip in tips if tip and tip.startswith("majority, agreement at least 80%")]
    assert "8 prompts with a reference." in part


def test_pass_rates_are_areas_that_fill_the_picture(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    text = checked(write_report(run))
    part = text[text.index("<h3>Pass rates in training</h3>") :]
    areas = ElementTree.fromstring(part[part.index("<svg") : part.index("</svg>") + 6]).findall("polygon")
    assert [area.findtext("title") for area in areas] == [
        "none right: 0% on average",
        "up to 25%: 50% on average",
        "up to 50%: 50% on average",
        "up to 75%: 0% on average",
        "under 100%: 0% on average",
        "all right: 0% on average",
    ]


def test_a_long_list_of_lost_prompts_is_folded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run, references=["7"] * 30)
    for step, answer in enumerate(["7", "1"]):
        close_step(run, config, step, {index: [answer] * 2 for index in range(30)}, Role.EVAL)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    text = checked(write_report(run))
    assert "Prompts that went from right to wrong (30)" in text and "<summary>and 5 more</summary>" in text
    assert text.count("0: 7 (right), 1: 1 (wrong)") == 30


def test_the_story_tells_what_happened_where_to_look_and_shows_three_prompts(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trained_run(run)
    finish(run)
    text = story(run)
    flat = " ".join(text.split())
    assert "(avg@4) rose from 50% to 75% (+25.0 points)" in flat
    assert "(maj@4) stayed at 66.7%" in flat
    assert "1 prompt went from a wrong to a right majority answer, 1 from right to wrong" in flat
    assert "Agreement with the elected answer rose from" in flat
    assert "majority answers of 3 prompts, after 0 steps against after 4 steps" in flat
    assert "right before 1 1 wrong before 1 0" in flat
    assert text.count("before vote:") == 3 and text.count("after  vote:") == 3
    assert "7 x2, 3 x1, no answer x1" in text
    assert f"groups, one Parquet file per step: {run / 'groups'}" in text
    order = [text.index(f"question {number}?") for number in (2, 0, 1)]
    assert order == sorted(order)


def test_a_run_without_evaluation_and_audit_is_reported_from_its_training_groups(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained_run(run, with_evaluation=False)
    finish(run)
    text = checked(write_report(run))
    assert "no scored evaluation" in text and "Held-out accuracy" not in text
    assert "Right and wrong" not in text and "Right and wrong" not in story(run)
    assert "Accuracy against agreement" not in text and "Pass rates" not in text
    assert "Before, step 0" in text and "After, step 3" in text


def test_a_run_killed_in_the_middle_is_reported_with_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained_run(run, num_steps=2)
    finish(run, "running")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "bra')
    text = checked(write_report(run))
    assert "still going or killed after 2 of 4 steps" in text
    assert f"continue: quorum train --resume {run}" in story(run)


def test_a_run_that_ended_before_its_first_step_still_has_a_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    finish(run, "failed", "EngineDied: sampler 0 <gone>")
    text = checked(write_report(run))
    assert "No training step was finished" in text
    assert "sampler 0 &lt;gone&gt;" in text
    assert "Where to look" in story(run)


def test_hostile_prompts_completions_and_names_are_escaped(tmp_path: Path) -> None:
    run = tmp_path / "a & b"
    config = make_run(run, references=["<b>7</b>"], model={"path": "<script>alert(0)</script>"})
    evil = "</pre><script>alert(1)</script>"
    for step in (0, 1):
        close_step(run, config, step, {0: [evil, evil, "<img src=x onerror=alert(2)>"]}, Role.EVAL)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    text = checked(write_report(run))
    assert "<script" not in text and "<img" not in text and "<b>7" not in text
    assert "&lt;script&gt;alert(1)" in text and "a &amp; b" in text


def test_a_collapsing_run_is_called_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    writer = MetricsWriter(run, tensorboard=False)
    for step, modal in enumerate([0.1, 0.1, 0.9, 0.95]):
        writer.log(step, 0, 0, {"vote/modal_answer_share": modal, "sync/logprob_gap_mean": 0.5})
    text = " ".join(sentences(RunView(run)))
    assert "a sign of collapse" in text and "sampler and learner differ" in text
    assert 'class="warning"' in write_report(run).read_text()


def test_a_directory_that_is_no_run_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml"):
        write_report(tmp_path)


def test_prompts_that_were_lost_and_came_back_are_told_from_those_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    for step, (first, second) in enumerate([("7", "8"), ("1", "1"), ("7", "1")]):
        close_step(run, config, step, {0: [first] * 2, 1: [second] * 2, 2: ["9", "9"]}, Role.EVAL)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    lost, gained = RunView(run).changed_prompts()
    assert {row["reference"]: row["is_correct"] for row in lost} == {"7": True, "8": False} and gained == []
    text = checked(write_report(run))
    assert "came back" in text and "0: 7 (right), 1: 1 (wrong), 2: 7 (right)" in text


def test_telling_completions_show_the_elected_answer_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 0, {0: [None, "3", "7", "7"]}, Role.EVAL)
    (sample,) = RunView(run).samples(3)
    assert sample.before is not None and sample.after is None
    assert [sample.before.answers[index] for index in telling(sample.before, 3)] == ["7", "3", None]
    assert votes_of(sample.before) == "7 x2, 3 x1, no answer x1"


def test_durations_read_as_people_say_them() -> None:
    assert [clock(value) for value in (0.4, 59.6, 3599, 7300)] == ["0 s", "1 min 00 s", "59 min 59 s", "2 h 01 min"]


def test_the_report_needs_the_base_install_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained_run(run)
    code = (
        "import sys; from orchestration.watch.report import story, write_report\n"
        "write_report(sys.argv[1]); story(sys.argv[1])\n"
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets', 'matplotlib', 'tensorboard'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, timeout=60, cwd=ROOT)
