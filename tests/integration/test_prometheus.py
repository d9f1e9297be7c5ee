"""What the `prometheus` sink records is what Ray exposes, under the names that the dashboard asks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.watch.sinks.prometheus import exported_names

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(120)]

SCRIPT = """
import pathlib, socket, time, urllib.request
import ray
from orchestration.watch.sinks.prometheus import PrometheusOptions, PrometheusSink
from orchestration.watch.sinks.sink import SinkRun, StepFacts

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(_node_ip_address="127.0.0.1", num_cpus=1, include_dashboard=False, _metrics_export_port=port,
         _system_config={"metrics_report_interval_ms": 500}, log_to_driver=False)
sink = PrometheusSink(SinkRun(pathlib.Path("runs/my-run"), "r"), PrometheusOptions())
sink.open()
sink.write(0, {"vote/agreement_mean": 0.5})
sink.observe(StepFacts(step=3, tokens_per_second={"s0": 5.0}, devices={"s0": "cpu"}, running_groups={"s0": 2},
                       queue_depth=4, ages=[0, 1, 1], transfer_seconds=0.3))
deadline, found = time.monotonic() + 60, ""
while time.monotonic() < deadline and not ("staleness_versions_count" in found and "queue_depth" in found):
    time.sleep(0.5)
    try:
        found = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        continue
print(*[line for line in found.splitlines() if line.startswith("ray_quorum_")], sep="\\n")
ray.shutdown()
"""


def test_ray_exposes_every_series_under_the_name_the_dashboard_uses() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=110, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ray_quorum_")]
    assert lines, done.stderr[-2000:]
    values = {re.split(r"[{ ]", line)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
    assert values.keys() - exported_names() == set()
    assert values["ray_quorum_vote_agreement_mean"] == 0.5 and values["ray_quorum_queue_depth_groups"] == 4
    assert values["ray_quorum_staleness_versions_count"] == 3  # Ray makes the sum of bucket middles, so it is not exact
    assert values["ray_quorum_sampler_tokens_per_second"] == 5
    assert all('run="my-run"' in line for line in lines)
