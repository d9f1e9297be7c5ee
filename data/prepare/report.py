"""What is in a training set twice, and what of it is in test sets: figures, matches, and the set without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.prepare.overlap import Match, OverlapOptions, as_json, duplicates, overlaps
from data.prepare.write import PreparedSet, read_prepared, write_prepared


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """Of one training set."""

    train: PreparedSet
    inside: tuple[Match, ...]
    between: dict[str, tuple[Match, ...]]
    """By test set."""
    options: OverlapOptions

    @property
    def dropped(self) -> set[str]:
        """Keys of prompts that repeat an earlier one or are in a test set."""
        return {match.key for matches in (self.inside, *self.between.values()) for match in matches}

    def counts(self) -> dict[str, dict[str, int]]:
        """Matches by kind, inside the set ("inside") and with each test set."""
        groups = {"inside": self.inside, **self.between}
        return {name: dict(sorted(Counter(one.kind for one in matches).items())) for name, matches in groups.items()}

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; prompts' texts included, references never."""
        return {
            "train": self.train.name,
            "num_prompts": len(self.train.examples),
            "options": asdict(self.options),
            "counts": self.counts(),
            "num_dropped": len(self.dropped),
            "inside": [as_json(one) for one in self.inside],
            "between": {name: [as_json(one) for one in matches] for name, matches in self.between.items()},
        }


def make_report(train: Path, against: Sequence[Path], options: OverlapOptions) -> OverlapReport:
    """Compare a prepared set with itself and with prepared test sets. Raises DataError for files that are none."""
    ours = read_prepared(train)
    between: dict[str, tuple[Match, ...]] = {}
    for path in against:
        between[path.name] = tuple(overlaps(ours.examples, path.name, read_prepared(path).examples, options))
    return OverlapReport(ours, tuple(duplicates(ours.name, ours.examples, options)), between, options)


def write_clean(report: OverlapReport, out: Path) -> dict[str, Any]:
    """Write the training set without what the report found; ids stay those of the set. Returns the manifest."""
    dropped = report.dropped
    kept = [one for one in report.train.examples if one.key not in dropped]
    provenance = {
        "cleaned_from": {"name": report.train.name, "prompts_hash": report.train.manifest.get("prompts_hash")},
        "options": asdict(report.options),
        "against": sorted(report.between),
        "counts": report.counts(),
    }
    return write_prepared(out, kept, provenance, name=report.train.name)
