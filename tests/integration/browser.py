"""A headless Chromium for tests: the page as it stands after its scripts, or a picture of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

_SECONDS = 60.0


def chromium(tmp_path: Path, *arguments: str) -> str:
    """Output of the browser. Skips where there is none, but fails in continuous integration."""
    program = shutil.which("chromium")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "no chromium on PATH: apt-get install chromium"
        )
    base = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [program, *base, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as browser:
        try:
            return browser.communicate(timeout=_SECONDS)[0]
        finally:
            if browser.poll() is None:
                os.killpg(browser.pid, signal.SIGKILL)


def picture(scratch: Path, url: str, path: Path, height: int = 900) -> bytes:
    """A screenshot 1280 pixels wide, written to `path`. Returns its bytes; fails where the browser wrote none."""
    chromium(scratch, f"--window-size=1280,{height}", f"--screenshot={path}", url)
    assert path.is_file(), f"the browser took no picture of {url}"
    return path.read_bytes()
