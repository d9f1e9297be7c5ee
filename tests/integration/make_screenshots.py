"""`python -m tests.integration.make_screenshots RUN`: the pictures of docs/images, of a run of the demo, anew."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from orchestration.watch.inspect.server import InspectServer
from orchestration.watch.report import write_report
from tests.integration.browser import picture

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main(run: Path) -> None:
    """Take them all."""
    server = InspectServer(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index = server.runs[0].of(server.runs[0].roles[0])
    step = index.steps[len(index.steps) // 2]
    group = index.table.filter(index.table.column("step").to_numpy() == step).column("group_id")[0].as_py()
    pages = {
        "inspect-list": "?sort=agreement&order=up",
        "inspect-group": f"group?role={index.role.value}&step={step}&group={group}",
        "inspect-compare": f"compare?a=0:0..{step}&b=0:{step}..{index.steps[-1]}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, page in pages.items():
            picture(Path(scratch), server.url + page, IMAGES / f"{name}.png")
        picture(Path(scratch), write_report(run).as_uri(), IMAGES / "report.png", height=1400)
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
