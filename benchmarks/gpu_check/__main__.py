"""GPU tests and measurements in stages of at most eight minutes, one result file; see docs/gpu.md."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.gpu_check.children import adopt_orphans
from benchmarks.gpu_check.results import ResultFile, this_place
from benchmarks.gpu_check.runner import Settings, run_stages
from benchmarks.gpu_check.stages import STAGES
from quorum.errors import ConfigError, QuorumError, ResourceError


def main() -> int:
    """Run the stages that are wanted. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check.json"), help="result file (default: gpu-check.json)"
    )
    parser.add_argument("--logs", type=Path, help="folder for the stages' output (default: beside the result file)")
    parser.add_argument("--only", action="append", default=[], metavar="STAGE", help="this one; can be repeated")
    parser.add_argument("--list", action="store_true", help="say what the stages are, and stop")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="of this call; exit 75 when stages are left")
    parser.add_argument("--keep-failures", action="store_true", help="do not run again what failed or timed out")
    parser.add_argument("--any-code", action="store_true", help="take over results of other source code too")
    parser.add_argument("--again", action="store_true", help="run stages that are in the result file too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, bounds not checked")
    options = parser.parse_args()
    if options.list:
        for stage in STAGES:
            print(f"{stage.name:18} {stage.about}{''.join(f'; {bound}' for bound in stage.bounds)}")
        return 0
    unknown = sorted(set(options.only) - {stage.name for stage in STAGES})
    if unknown:
        raise ConfigError(f"no stage {', '.join(unknown)}; there are: {', '.join(s.name for s in STAGES)}")
    place = this_place(options.device, options.tiny)
    if options.device == "cuda" and not place.gpus:
        raise ResourceError("nvidia-smi shows no GPU here; --device cpu --tiny takes the same stages with small shapes")
    settings = Settings(
        logs=options.logs or options.out.with_suffix(".logs"),
        keeps_failures=options.keep_failures,
        any_code=options.any_code,
        again=options.again,
        budget_seconds=options.budget,
    )
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the stage is ended too
    wanted = [stage for stage in STAGES if not options.only or stage.name in options.only]
    return run_stages(wanted, place, ResultFile(options.out), settings)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QuorumError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
