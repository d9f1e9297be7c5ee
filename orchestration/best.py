"""Which checkpoints did best in evaluation: the small file `checkpoints/best`, whose entries are never pruned.

{"metric": "eval/agreement_mean", "checkpoints": {"step-000008": 0.71, "step-000004": 0.69}}    the best first
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.run_dir import write_atomic
from quorum.errors import DataError

FILE_NAME = "best"


@dataclass(frozen=True, slots=True)
class BestCheckpoints:
    """Names of checkpoints with their value of one metric, the best first."""

    metric: str
    values: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, metric: str) -> BestCheckpoints:
        """What `checkpoints/best` says, of checkpoints that are still there; nothing when it is about another metric.

        Raises:
            DataError: the file is not readable.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return cls(metric)
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            values = {str(name): float(value) for name, value in held["checkpoints"].items()}
            if held["metric"] != metric:
                return cls(metric)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DataError(f"{path} is not readable ({exc}); remove it to choose among later ones only") from exc
        return cls(metric, values).that_exist(folder)

    def that_exist(self, folder: Path) -> BestCheckpoints:
        """Without those that are gone."""
        return BestCheckpoints(self.metric, {name: v for name, v in self.values.items() if (folder / name).is_dir()})

    @property
    def names(self) -> list[str]:
        return list(self.values)

    def is_among(self, value: float, count: int) -> bool:
        """Whether a new checkpoint with this value would be one of the best `count`; the older one wins a tie."""
        return sum(held >= value for held in self.values.values()) < count

    def with_checkpoint(self, name: str, value: float, count: int) -> BestCheckpoints:
        """The best `count` of these and a new one. One of the same name is replaced."""
        every = {**self.values, name: value}
        ranked = sorted(every, key=lambda one: (-every[one], one))[:count]
        return BestCheckpoints(self.metric, {one: every[one] for one in ranked})

    def write(self, folder: Path) -> None:
        """Record it. Raises StorageError."""
        record = {"metric": self.metric, "checkpoints": dict(self.values)}
        write_atomic(folder / FILE_NAME, json.dumps(record) + "\n")
