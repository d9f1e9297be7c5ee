import os
import subprocess
import sys
import textwrap

from rollout.stderr_tail import last_error_line


def test_the_cause_is_found_behind_the_wrappers() -> None:
    lines = [
        "INFO loading",
        "(Worker pid=7) ERROR 11-24 04:00:00 [core.py:3] ValueError: No available memory for the cache blocks.",
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert last_error_line(lines) == "ValueError: No available memory for the cache blocks."


def test_a_wrapper_is_better_than_nothing_and_plain_lines_are_no_errors() -> None:
    assert last_error_line(["RuntimeError: Engine core initialization failed."]) is not None
    assert last_error_line(["all is well", "Error rate: 3"]) is None
    assert last_error_line([]) is None


def test_childrens_lines_are_kept_and_still_reach_stderr_while_stdout_comes_back(tmp_path: object) -> None:
    script = textwrap.dedent(
        """
        import subprocess, sys, time
        from rollout.stderr_tail import StderrTail
        with StderrTail() as tail:
            subprocess.run([sys.executable, "-c", "raise ValueError('no room')"], timeout=60)
            deadline = time.monotonic() + 10
            while (line := tail.last_error_line()) is None and time.monotonic() < deadline:
                time.sleep(0.01)
        print("found:", line)
        """
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout == "found: ValueError: no room\n"
    assert "ValueError: no room" in done.stderr
