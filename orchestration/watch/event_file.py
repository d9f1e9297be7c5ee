"""TensorBoard scalars, written synchronously with tensorboard's own record format. Imports no torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestration.storage import storage_errors
from quorum.errors import ResourceError


class EventFile:
    """One event file in a log directory.

    The first step written starts a session at that step, so that TensorBoard drops points of a superseded
    incarnation from there on.
    """

    def __init__(self, log_dir: Path, without: str = "set report.tensorboard=false") -> None:
        """Open it.

        Args:
            log_dir: is made where it is missing.
            without: what to do where no events are wanted, for the error.

        Raises:
            ResourceError: the tensorboard package is not installed.
            StorageError: the file cannot be written.
        """
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ResourceError(
                f"TensorBoard events need the tensorboard package, which is not installed: `pip install tensorboard`, "
                f"or {without}"
            ) from error
        self._event: Any = event_pb2.Event
        self._session: Any = event_pb2.SessionLog
        self._summary: Any = summary_pb2.Summary
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
        self.path = log_dir / name
        with storage_errors(self.path):
            log_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115
        self._records: Any = RecordWriter(self._file)
        self._started = False
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values of one step; None is left out. Raises StorageError."""
        now = time.time()
        if not self._started:
            start = self._session(status=self._session.START)
            self._write(self._event(wall_time=now, step=step, session_log=start))
            self._started = True
        points = [
            self._summary.Value(tag=name, simple_value=value) for name, value in values.items() if value is not None
        ]
        self._write(self._event(wall_time=now, step=step, summary=self._summary(value=points)))

    def _write(self, event: Any) -> None:
        with storage_errors(self.path):
            self._records.write(event.SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
