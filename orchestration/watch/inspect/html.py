"""What the pages share: the document around a body, how a figure is said, and how a group is named in an address."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np

from quorum.types import Role

RIGHT = {1: '<b class="right">right</b>', 0: '<b class="wrong">wrong</b>', -1: ""}
"""How a verdict of `RoleIndex.right` is shown."""


def document(title: str, body: str) -> str:
    """The whole page; its style is served beside it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/style.css"></head><body>{body}</body></html>\n'
    )


def share(value: float | None) -> str:
    """A share in percent; "" for none."""
    return "" if value is None or np.isnan(value) else f"{100 * value:.1f}%"


def group_name(number: int, role: Role, row: dict[str, Any]) -> str:
    """RUN:ROLE:STEP:GROUP, with RUN 0 for the run itself and 1 for the one it is compared with."""
    return f"{number}:{role.value}:{row['step']}:{row['group_id']}"


def pair_url(a: str, b: str) -> str:
    """Address of two groups side by side, each as `group_name` gives it."""
    return "/pair?" + urlencode({"a": a, "b": b})
