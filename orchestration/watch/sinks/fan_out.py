"""Hands a run's metrics to its sinks, each in a thread of its own: a slow or broken one delays and ends nothing."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from configs.schema import RunConfig
from orchestration.run_dir import RunDir, write_atomic
from orchestration.watch.sinks.registry import SINKS
from orchestration.watch.sinks.sink import Kept, MetricSink, SinkRun, StepFacts
from quorum.registry import Registry

FILE_NAME = "sinks.json"
"""In the run directory: what each sink wants to know again after a resume."""
CLOSE_SECONDS = 20.0
"""For all sinks together to send what is left."""
MOST_WAITING = 1000
"""Calls that may wait for one sink; with more it counts as hung."""
POLL_SECONDS = 0.5

Call = Callable[[MetricSink], Any]


class Lane:
    """One sink and the thread that calls it.

    consumes: calls, in order.  waits for: the sink.  unblocked by: a call, or the end.  produces: `error`, once.
    """

    def __init__(self, name: str, sink: MetricSink) -> None:
        self.name, self.error, self.is_told = name, "", False
        self.kept: Kept = {}
        self._sink = sink
        self._calls: queue.Queue[Call | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def put(self, call: Call | None) -> None:
        """Have the sink called after the calls before; None ends it. A sink that failed is not called again."""
        if self.error:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self.error = f"it has not kept up: {MOST_WAITING} calls wait for it"

    def join(self, seconds: float) -> None:
        """Wait until the sink has done everything."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive() and not self.error:
            self.error = f"it did not end within {CLOSE_SECONDS:g} s; what it had not sent is lost"

    def _run(self) -> None:
        try:
            self.kept = self._sink.open()
            while not self.error:
                try:
                    call = self._calls.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if call is None:
                    return
                call(self._sink)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the run goes on and tells it
            text = str(error).strip().splitlines()
            self.error = f"{type(error).__name__}: {text[0] if text else 'no message'}"


class Sinks:
    """All sinks of a run. No method raises for what a sink does, or waits for one, but `close`, for CLOSE_SECONDS."""

    def __init__(
        self, config: RunConfig, run_dir: RunDir, say: Callable[[str], None], registry: Registry = SINKS
    ) -> None:
        """Connect to the sinks of `report.sinks`.

        Args:
            config: of the run.
            run_dir: the run directory; FILE_NAME in it says how earlier incarnations were known.
            say: told once of each sink that fails.
            registry: where the sinks' names are looked up.
        """
        self._path, self._say = run_dir.path / FILE_NAME, say
        self._kept: dict[str, Kept] = _read(self._path)
        values = config.model_dump(mode="json") if config.report.sinks else {}
        run = SinkRun(run_dir.path, run_dir.info.run_id, values)
        self._lanes = []
        for plugin in config.report.sinks:
            entry = registry[plugin.name]
            own = replace(run, kept=self._kept.get(plugin.name, {}))
            self._lanes.append(Lane(plugin.name, entry.target(own, entry.options.model_validate(plugin.options))))

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Pass on the values of a step; those not measured are left out."""
        measured = {name: value for name, value in values.items() if value is not None and abs(value) < float("inf")}
        self._call(lambda sink: sink.write(step, measured))

    def observe(self, facts: StepFacts) -> None:
        """Pass on what a step has several values of."""
        self._call(lambda sink: sink.observe(facts))

    def close(self, is_failed: bool) -> None:
        """Let every sink send what is left."""
        deadline = time.monotonic() + CLOSE_SECONDS
        self._call(lambda sink: sink.close(is_failed))
        for lane in self._lanes:
            lane.put(None)
        for lane in self._lanes:
            lane.join(deadline - time.monotonic())
        self._look()

    def _call(self, call: Call) -> None:
        for lane in self._lanes:
            lane.put(call)
        self._look()

    def _look(self) -> None:
        """Tell of failures, and keep what the sinks want kept."""
        for lane in self._lanes:
            if lane.error and not lane.is_told:
                lane.is_told = True
                self._say(f"metric sink {lane.name} is switched off, the run goes on: {lane.error}")
        known = self._kept | {lane.name: lane.kept for lane in self._lanes if lane.kept}
        if known != self._kept:
            self._kept = known
            write_atomic(self._path, json.dumps(known, indent=2) + "\n")


def _read(path: Any) -> dict[str, Kept]:
    try:
        found: dict[str, Kept] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
