"""The command line: help is instant, errors are one line with their exit code."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from orchestration.cli.main import COMMANDS, load_command, one_line_errors, run
from quorum.errors import ConfigError, DataError, Interrupted, QuorumError, StageError

ROOT = Path(__file__).parents[4]


def exit_of(function: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises((typer.Exit, SystemExit)) as caught:
        function()
    code = getattr(caught.value, "exit_code", getattr(caught.value, "code", None))
    return code, capsys.readouterr().err


def raising(error: BaseException) -> object:
    @one_line_errors
    def command() -> None:
        raise error

    return command


def test_every_listed_command_can_be_loaded_and_has_help() -> None:
    for name in COMMANDS:
        assert len(load_command(name).help) > 40, name


def test_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)
    assert "quorum train demo" in text and "Exit codes" in text


def test_help_answers_in_half_a_second() -> None:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "orchestration", "--help"], capture_output=True, timeout=60, check=True, cwd=ROOT
        )
        return time.perf_counter() - begin

    def bare() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], capture_output=True, timeout=60, check=True)
        return time.perf_counter() - begin

    # On a busy machine a bare interpreter takes longer too: its excess over 0.05 s is not ours.
    assert min(once() / max(1.0, bare() / 0.05) for _ in range(5)) < 0.5


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("run.dir: missing"), 2, "quorum: error: configuration: run.dir: missing\n"),
        (DataError("no prompts in a.jsonl"), 3, "quorum: error: no prompts in a.jsonl\n"),
        (StageError("sampler s0 died"), 5, "quorum: error: sampler s0 died\n"),
        (QuorumError("odd"), 1, "quorum: error: odd\n"),
        (KeyboardInterrupt(), 130, "quorum: interrupted\n"),
        (KeyError("x"), 1, "quorum: error: unforeseen KeyError: 'x' (--traceback shows where)\n"),
    ],
)
def test_an_error_is_one_line_and_the_exit_code_of_its_class(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(raising(error), capsys) == (code, line)


def test_a_signal_exits_with_its_shell_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = exit_of(raising(Interrupted(15, "quorum train --resume runs/a")), capsys)
    assert code == 143
    assert line.startswith("quorum: error: stopped by SIGTERM; continue with `quorum train --resume runs/a`")


def test_exits_of_a_command_pass_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(raising(typer.Exit(4)), capsys) == (4, "")


def test_a_mistyped_command_names_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = exit_of(lambda: run(["trian"]), capsys)
    assert code == 2
    assert "train" in text and "Traceback" not in text


def test_the_traceback_is_shown_when_asked_for_even_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, quiet = exit_of(lambda: run(["train", "no_such_preset"]), capsys)
    assert (code, quiet.count("\n")) == (2, 1) and "Traceback" not in quiet
    code, loud = exit_of(lambda: run(["train", "no_such_preset", "--traceback"]), capsys)
    assert code == 2 and "Traceback" in loud


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--version"])
    assert re.fullmatch(r"quorum \d+\.\d+\.\d+\n", capsys.readouterr().out)
