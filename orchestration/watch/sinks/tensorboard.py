"""TensorBoard events in a directory of the user's: all runs of a team under one roof.

`report.tensorboard` writes the run's own `tensorboard/`; this one goes elsewhere besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestration.watch.event_file import EventFile
from orchestration.watch.sinks.sink import Kept, SinkRun, StepFacts
from quorum.registry import Options


class TensorBoardOptions(Options):
    """Options of the `tensorboard` sink."""

    log_dir: str
    """Directory that holds a subdirectory for each run."""


class TensorBoardSink:
    """Writes events to LOG_DIR/RUN."""

    def __init__(self, run: SinkRun, options: TensorBoardOptions) -> None:
        self._log_dir = Path(options.log_dir) / run.name
        self._events: EventFile | None = None

    def open(self) -> Kept:
        self._events = EventFile(self._log_dir, without="take the sink tensorboard out of report.sinks")
        return {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        assert self._events is not None
        self._events.write(step, values)

    def observe(self, facts: StepFacts) -> None:
        """Nothing: events have no labels."""

    def close(self, is_failed: bool) -> None:
        if self._events is not None:
            self._events.close()
