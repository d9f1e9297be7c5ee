"""Files of tests/gpu under pytest, with a RESULT line of how many passed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check.results import ROOT
from benchmarks.gpu_check.stages import LIMIT_SECONDS
from orchestration.cli.result import result_line


def main() -> int:
    """Run them and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", action="append", required=True, help="below tests/gpu; can be repeated")
    parser.add_argument("--device", choices=("cuda",), default="cuda")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        files = [str(ROOT / "tests" / "gpu" / file) for file in options.file]
        command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", "--durations=0"]
        done = subprocess.run(command, cwd=ROOT, timeout=LIMIT_SECONDS)
        print(result_line("gpu_tests", counts(report.read_text()), seed=0, repeats=1), flush=True)
    return done.returncode


def counts(report: str) -> dict[str, object]:
    """Passed, failed and skipped of a JUnit report, and the names of those that failed."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    bad = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(bad) - skipped
    return {"passed": passed, "failed": len(bad), "skipped": skipped, "failed_names": bad}


if __name__ == "__main__":
    sys.exit(main())
