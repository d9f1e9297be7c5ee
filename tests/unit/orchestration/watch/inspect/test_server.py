"""The pages over HTTP: filters, clusters, hostile text, two groups side by side, and who is refused."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.watch.auditor import Auditor
from orchestration.watch.inspect.pages import _versions
from orchestration.watch.inspect.server import InspectServer
from orchestration.watch.inspect.verdicts import Verdicts
from quorum.errors import DataError
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run

EVIL = "</pre><script>document.title='taken'</script>"


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


def ask(server: InspectServer, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 4), ("?verdict=right", 1), ("?verdict=wrong", 3), ("?flipped=yes", 1), ("?steps=0", 2), ("?low=90", 1)]
    + [("?text=QUESTION%201", 2), ("?state=trained", 4), ("?state=quarantined", 0), ("?source=sums&sort=tokens", 4)],
)
def test_filters_change_what_is_listed(server: InspectServer, query: str, count: int) -> None:
    code, text = ask(server, f"/{query}")
    assert code == 200 and f"{count} of 4 groups" in text and text.count("<tr><td>") == count


def test_a_group_shows_its_clusters_largest_first_and_hostile_text_is_escaped(server: InspectServer) -> None:
    code, text = ask(server, "/group?role=train&step=1&group=0")
    assert code == 200 and "<script" not in text and "&lt;script&gt;" in text
    assert text.index("<code>3</code> x2") < text.index("<code>7</code> x1")
    assert "reward 1 | answered" in text and "wrong" in text and "mean logprob -1.000" in text
    assert "version 0<" in text and "version 0 " not in text


def test_a_completion_names_the_versions_that_sampled_it() -> None:
    assert _versions([]) == "" and _versions([{"version": 3, "start": 0}]) == "version 3"
    assert _versions([{"version": 3, "start": 0}, {"version": 4, "start": 120}]) == "version 3, 4 from token 120"


def test_two_visits_are_shown_side_by_side(server: InspectServer) -> None:
    code, text = ask(server, "/pair?a=0:train:0:0&b=1:train:1:0")
    assert code == 200 and text.count("<h2>run, step") == 2
    assert ask(server, "/pair?a=5:train:0:0&b=x")[0] == 400


def test_only_get_from_this_machine_is_answered(server: InspectServer) -> None:
    assert ask(server, "/", host="evil.example")[0] == 403
    assert ask(server, "/", host="localhost:1")[0] == 200
    assert ask(server, "/", method="POST")[0] == 501
    assert ask(server, "/../config.yaml")[0] == 404
    assert ask(server, "/?low=x")[0] == 400
    with pytest.raises(DataError, match="wanted a path"):
        server.answer("//[")


def test_two_steps_are_compared_prompt_by_prompt_and_a_changed_label_comes_first(server: InspectServer) -> None:
    code, text = ask(server, "/compare?a=0:0&b=0:1")
    assert code == 200 and "2 prompts in both" in text
    changed, kept = text.split("<tbody>")[1].split("</tr>")[:2]
    assert "<code>7</code> &rarr; <code>3</code>" in changed and "right</b> &rarr; <b" in changed
    assert "<code>1</code></td>" in kept and "75.0% &rarr; 100.0%" in kept
    assert "/pair?a=0%3Atrain%3A0%3A0&amp;b=0%3Atrain%3A1%3A0" in changed
    assert "<td>50.0%</td>" in text and "<td>0.0%</td>" in text, "majorities right, before and after"


def test_two_runs_are_compared_by_their_last_visits_and_nonsense_is_refused(server: InspectServer) -> None:
    code, text = ask(server, "/compare")
    assert code == 200 and "2 prompts in both" in text and "0 is run; 1 is run" in text and "&rarr; <code>" not in text
    assert "No prompt was visited by both" in ask(server, "/compare?a=0:0&b=1:7")[1]
    assert "<option selected>train</option>" in text
    for query in ("a=2:", "a=x", "a=0:x", "role=nobody", "page=0"):
        assert ask(server, f"/compare?{query}")[0] == 400


def test_a_prompt_twice_in_a_step_has_a_verdict_for_each_of_its_groups(tmp_path: Path) -> None:
    rows = [
        {
            "role": "train",
            "step": 0,
            "branch": 0,
            "incarnation": 0,
            "group_id": number,
            "prompt_id": "p",
            "is_correct": ok,
        }
        for number, ok in ((10, True), (14, False))
    ]
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdicts = Verdicts(tmp_path)
    assert verdicts.refresh()
    assert {number: said.is_correct for number, said in verdicts.of_step(Role.TRAIN, 0, 0, 0).items()} == {
        10: True,
        14: False,
    }


def test_a_run_with_evaluations_alone_shows_them_at_once(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run")
    close_step(tmp_path / "run", config, 0, {0: ["7", "7", "3", None]}, Role.EVAL)
    server = InspectServer(tmp_path / "run")
    try:
        page = server.answer("/") or ""
    finally:
        server.server_close()
    assert "1 of 1 groups" in page and "/compare?role=eval" in page


def test_a_filter_that_there_is_not_is_refused(server: InspectServer) -> None:
    code, text = ask(server, "/?consensus=5")
    assert code == 400 and "consensus: no such filter" in text and "sort" in text
