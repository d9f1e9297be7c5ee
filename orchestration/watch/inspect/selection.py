"""Which groups a page lists: filters and order as they stand in the query string."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pyarrow.compute as pc

from orchestration.watch.inspect.cache import BoundedCache
from orchestration.watch.inspect.files import prompts_with
from orchestration.watch.inspect.index import RoleIndex
from quorum.errors import DataError
from quorum.types import Role

PAGE_SIZE = 50
ORDERS = ("step", "agreement", "margin", "distinct", "tokens", "group_id")
VERDICTS = {"right": 1, "wrong": 0, "none": -1}
_STEPS = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?")
_SEARCHED = BoundedCache(16 << 20)
"""Which prompts of a file hold a text, in bytes: one a group."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters of the list of groups; "" leaves one out."""

    role: str = "train"
    steps: str = ""
    """N, or N..M with both ends."""
    low: str = ""
    """Least agreement, in percent."""
    high: str = ""
    verdict: str = ""
    """right, wrong or none, of the most common answer."""
    flipped: str = ""
    """yes or no."""
    state: str = ""
    source: str = ""
    text: str = ""
    """In the prompt, capitals or not."""
    sort: str = "step"
    order: str = "down"
    page: str = "1"

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Selection:
        """Of a query string's fields; Raises DataError for one that there is not, and for a value that says nothing."""
        if unknown := sorted(query.keys() - set(cls.__slots__)):
            raise DataError(f"{unknown[0]}: no such filter; there are {', '.join(cls.__slots__)}")
        found = cls(**{name: query[name].strip() for name in cls.__slots__ if query.get(name, "").strip()})
        choices = {
            "role": tuple(Role),
            "verdict": ("", *VERDICTS),
            "flipped": ("", "yes", "no"),
            "sort": ORDERS,
            "order": ("up", "down"),
        }
        for name, allowed in choices.items():
            if getattr(found, name) not in allowed:
                raise DataError(
                    f"{name}: got {getattr(found, name)!r}, wanted one of {', '.join(filter(None, allowed))}"
                )
        parse_steps(found.steps)
        for name in ("low", "high"):
            _percent(name, getattr(found, name))
        if not re.fullmatch(r"[1-9]\d{0,8}", found.page):
            raise DataError(f"page: got {found.page!r}, wanted a number from 1 on")
        return found

    def url(self, path: str = "/", **changes: str) -> str:
        """Address of the list with some fields changed; defaults are left out. Another filter starts at page 1."""
        fields = asdict(self) | ({} if "page" in changes else {"page": "1"}) | changes
        default = asdict(Selection())
        query = urlencode({name: value for name, value in fields.items() if value != default.get(name)})
        return f"{path}?{query}" if query else path

    @property
    def page_number(self) -> int:
        """From 1."""
        return int(self.page)

    def places(self, index: RoleIndex) -> np.ndarray:
        """Places in `index.table` of all groups that pass, in the order asked for. Raises DataError."""
        mask = self._passes(index)
        if self.text:
            self._search(index, mask)
        places = np.flatnonzero(mask)
        return places[self._ranks(index, places)]

    def _passes(self, index: RoleIndex) -> np.ndarray:
        table = index.table
        mask = np.ones(len(table), dtype=bool)
        if wanted_steps := parse_steps(self.steps):
            steps = table.column("step").to_numpy()
            mask &= (steps >= wanted_steps[0]) & (steps <= wanted_steps[1])
        agreement = table.column("agreement").to_numpy()
        if self.low:
            mask &= agreement >= _percent("low", self.low) - 1e-6
        if self.high:
            mask &= agreement <= _percent("high", self.high) + 1e-6
        if self.verdict:
            mask &= index.right == VERDICTS[self.verdict]
        wanted = {"end_state": self.state, "data_source": self.source, "flipped": self.flipped}
        for name, value in wanted.items():
            if value:
                same = pc.equal(table.column(name), value == "yes" if name == "flipped" else value)
                mask &= pc.fill_null(same, False).to_numpy().astype(bool)
        return mask

    def _search(self, index: RoleIndex, mask: np.ndarray) -> None:
        steps = index.table.column("step").to_numpy()
        for step in np.unique(steps[mask]):
            inside = steps == step
            mask[inside] &= _holding(index.path(int(step)), self.text)

    def _ranks(self, index: RoleIndex, places: np.ndarray) -> np.ndarray:
        """Order of `places`; groups without the value come last, equal ones in step order."""
        if self.sort == "tokens":
            steps = index.table.column("step").to_numpy()[places]
            rows = index.table.column("row").to_numpy()[places]
            values = np.zeros(len(places))
            for step in np.unique(steps):
                inside = steps == step
                values[inside] = index.tokens(int(step))[rows[inside]]
        else:
            values = index.table.column(self.sort).to_numpy()[places].astype(np.float64)
        keys = -values if self.order == "down" else values
        return np.argsort(np.where(np.isnan(keys), np.inf, keys), kind="stable")


def parse_steps(text: str) -> tuple[int, int] | None:
    """First and last step of N or N..M; None for "". Raises DataError for anything else."""
    match = _STEPS.fullmatch(text)
    if match is None and text:
        raise DataError(f"steps: got {text!r}, wanted a step (12) or a range (10..20)")
    return (int(match[1]), int(match[2] or match[1])) if match else None


def _percent(name: str, text: str) -> float:
    """As a share; 0 for ""."""
    try:
        value = float(text or 0) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise DataError(f"{name}: got {text!r}, wanted an agreement from 0 to 100 percent")
    return value


def _holding(path: Path, text: str) -> np.ndarray:
    """[groups of the file] bool"""
    found: np.ndarray = _SEARCHED.get(
        (path, text.lower()), lambda: prompts_with(path, text), lambda found: found.nbytes
    )
    return found
