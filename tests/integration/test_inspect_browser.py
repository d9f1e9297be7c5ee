"""`quorum inspect` and report.html in a real headless browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.watch.auditor import Auditor
from orchestration.watch.inspect.server import InspectServer
from orchestration.watch.report import write_report
from quorum.types import Role
from tests.integration.browser import chromium, picture
from tests.unit.orchestration.watch.run_builder import close_step, make_run

EVIL = "</pre><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"

GROUP = "group?role=train&step=1&group=0"
PAIR = "pair?a=0:train:0:0&b=1:train:1:0"
COMPARISON = "compare?a=0:0&b=0:1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InspectServer]:
    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 0, {0: ["7", "7", "3", None], 1: ["1", "8", "1", "1"]}, Role.TRAIN)
    close_step(run, config, 1, {0: ["3", "3", "7", EVIL], 1: ["1", "1", "1", "1"]}, Role.TRAIN)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    made = InspectServer(run, run)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(timeout=10)


def test_filters_clusters_and_comparison_show_and_hostile_text_is_inert(server: InspectServer, tmp_path: Path) -> None:
    listed = chromium(tmp_path, "--dump-dom", f"{server.url}?verdict=wrong")
    assert listed.count("<tr><td>") == 3 and "3 of 4 groups" in listed
    group = chromium(tmp_path, "--dump-dom", server.url + GROUP)
    assert "<title>Step 1, group 0</title>" in group and "&lt;script&gt;" in group and "<img" not in group
    assert group.count('class="cluster"') == 3
    pair = chromium(tmp_path, "--dump-dom", server.url + PAIR)
    compared = chromium(tmp_path, "--dump-dom", server.url + COMPARISON)
    assert "2 prompts in both" in compared and compared.count(">side by side</a>") == 2
    assert pair.count("<h2>run, step") == 2 and "<title>Side by side</title>" in pair


def test_pictures_of_every_page_and_of_the_report_show_something(server: InspectServer, tmp_path: Path) -> None:
    report = write_report(tmp_path / "run")
    assert "<h2>" in chromium(tmp_path, "--dump-dom", report.as_uri())
    pages = {"list": "", "group": GROUP, "pair": PAIR, "compare": COMPARISON}
    seen = {name: picture(tmp_path, server.url + page, tmp_path / f"{name}.png") for name, page in pages.items()}
    seen["report"] = picture(tmp_path, report.as_uri(), tmp_path / "report.png")
    seen["nothing"] = picture(tmp_path, "about:blank", tmp_path / "nothing.png")
    assert all(image.startswith(b"\x89PNG") for image in seen.values())
    assert len(set(seen.values())) == len(seen)
    assert min(len(image) for name, image in seen.items() if name != "nothing") > 2 * len(seen["nothing"])
