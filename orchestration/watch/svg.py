"""Small line charts as inline SVG: no library, no script, no external resource. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 440, 224
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 12, 30
MAX_POINTS = 400
"""Longer series are averaged in equal runs of points."""

SHARE_FROM_ZERO = 0.25
"""Shares that get below this are drawn from 0, so that small ones look small."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `ys` may hold None where nothing was measured."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    lows: Sequence[float] = ()
    """[len(ys)] lower ends of a band, or empty."""
    highs: Sequence[float] = ()


def share(value: float) -> str:
    """A share in percent.

    Example:
        >>> share(0.5), share(0.123)
        ('50%', '12.3%')
    """
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def number(value: float) -> str:
    """A number with three digits, large ones with thousands separators.

    Example:
        >>> number(0.01234), number(12345.6), number(2.0)
        ('0.0123', '12,346', '2')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _tick(value: float, shown: Callable[[float], str]) -> str:
    """Ticks are round numbers: a share among them is written exactly."""
    return f"{100 * value:.4f}".rstrip("0").rstrip(".") + "%" if shown is share else shown(value)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that span [low, high], about `count` steps.

    Example:
        >>> nice_ticks(0.0, 1.0)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1
        return round(LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1
        return round(HEIGHT - BOTTOM - (value - self.y_low) / span * (HEIGHT - TOP - BOTTOM), 1)


class _XAxis(NamedTuple):
    name: str
    shown: Callable[[float], str] | None


def _thin(series: Series) -> Series:
    count = len(series.xs)
    if count <= MAX_POINTS:
        return series
    size = math.ceil(count / MAX_POINTS)
    xs, ys = [], []
    for start in range(0, count, size):
        measured = [y for y in series.ys[start : start + size] if y is not None]
        xs.append(series.xs[min(start + size, count) - 1])
        ys.append(sum(measured) / len(measured) if measured else None)
    return Series(series.name, xs, ys)


def _axes(frame: _Frame, ticks: Sequence[float], shown: Callable[[float], str], x_axis: _XAxis) -> list[str]:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{_tick(tick, shown)}</text>')
    for tick in nice_ticks(frame.x_low, frame.x_high):
        if frame.x_low <= tick <= frame.x_high and (x_axis.shown or tick == int(tick)):
            label = _tick(tick, x_axis.shown) if x_axis.shown else f"{int(tick):,}"
            parts.append(
                f'<text class="tick" x="{frame.x(tick)}" y="{HEIGHT - 14}" text-anchor="middle">{label}</text>'
            )
    name = escape(x_axis.name)
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT}" text-anchor="end">{name}</text>')
    return parts


def _segments(frame: _Frame, series: Series) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.xs, series.ys, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((frame.x(x), frame.y(y)))
    return [run for run in runs if run]


def _line(frame: _Frame, series: Series, color: int, shown: Callable[[float], str], x_axis: _XAxis) -> list[str]:
    parts = []
    if series.lows:
        upper = [(frame.x(x), frame.y(y)) for x, y in zip(series.xs, series.highs, strict=True)]
        lower = [(frame.x(x), frame.y(y)) for x, y in zip(series.xs, series.lows, strict=True)]
        points = " ".join(f"{x},{y}" for x, y in [*upper, *reversed(lower)])
        parts.append(f'<polygon class="band f{color}" points="{points}"/>')
    for run in _segments(frame, series):
        if len(run) > 1:
            parts.append(f'<polyline class="line s{color}" points="{" ".join(f"{x},{y}" for x, y in run)}"/>')
    measured = [(x, y) for x, y in zip(series.xs, series.ys, strict=True) if y is not None]
    is_sparse = len(measured) <= 30
    for x, y in measured:
        at = x_axis.shown(x) if x_axis.shown else f"{x:g}"
        tip = f"<title>{escape(series.name)}, {escape(x_axis.name)} {at}: {shown(y)}</title>"
        is_shown = is_sparse or (x, y) == measured[-1]
        kind, radius = (f"dot f{color}", 2.5) if is_shown else ("target", 4)
        parts.append(f'<circle class="{kind}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="{radius}">{tip}</circle>')
    return parts


def line_chart(
    series: Sequence[Series],
    *,
    shown: Callable[[float], str] = number,
    x_name: str = "step",
    x_shown: Callable[[float], str] | None = None,
) -> str:
    """A chart of one or more lines, over steps or what `x_name` says.

    Args:
        series: at most five lines; those without any value are left out.
        shown: how a value is written on the axis and in tooltips.
        x_name: of the horizontal axis.
        x_shown: how its values are written; None is for whole numbers, others then get no tick.

    Returns:
        An <svg> element preceded by its legend, which over steps states each line's last value; "" when there is
        nothing to draw.
    """
    drawn = [(color, _thin(item)) for color, item in enumerate(series) if any(y is not None for y in item.ys)]
    if not drawn:
        return ""
    ys = [y for _, item in drawn for y in [*item.ys, *item.lows, *item.highs] if y is not None]
    xs = [x for _, item in drawn for x in item.xs]
    low = 0.0 if shown is share and 0 <= min(ys) < SHARE_FROM_ZERO else min(ys)
    ticks = nice_ticks(low, max(ys))
    frame = _Frame(min(xs), max(xs), ticks[0], ticks[-1])
    x_axis = _XAxis(x_name, x_shown)
    parts = _axes(frame, ticks, shown, x_axis)
    for color, item in drawn:
        parts += _line(frame, item, color, shown, x_axis)
    return _legend(drawn, shown, with_last=x_shown is None) + _svg(parts, ", ".join(item.name for _, item in drawn))


def stacked_chart(series: Sequence[Series], *, shown: Callable[[float], str] = number) -> str:
    """Areas that add up, first at the bottom; None counts as 0. All series share the first one's steps."""
    drawn = [(color, _thin(item)) for color, item in enumerate(series)]
    if not drawn or not drawn[0][1].xs:
        return ""
    xs = drawn[0][1].xs
    floor = [0.0] * len(xs)
    tops = []
    for _, item in drawn:
        floor = [below + (y or 0.0) for below, y in zip(floor, item.ys, strict=True)]
        tops.append(floor)
    ticks = nice_ticks(0.0, max(max(floor), 1e-9))
    frame = _Frame(min(xs), max(xs), ticks[0], ticks[-1])
    parts = _axes(frame, ticks, shown, _XAxis("step", None))
    for (color, item), top, below in zip(drawn, tops, [[0.0] * len(xs), *tops[:-1]], strict=True):
        edge = [(frame.x(x), frame.y(y)) for x, y in zip(xs, top, strict=True)]
        back = [(frame.x(x), frame.y(y)) for x, y in zip(xs, below, strict=True)]
        points = " ".join(f"{x},{y}" for x, y in [*edge, *reversed(back)])
        mean = sum(y or 0.0 for y in item.ys) / len(xs)
        tip = f"<title>{escape(item.name)}: {shown(mean)} on average</title>"
        parts.append(f'<polygon class="area f{color}" points="{points}">{tip}</polygon>')
    return _legend(drawn, shown) + _svg(parts, ", ".join(item.name for _, item in drawn))


def _legend(drawn: Sequence[tuple[int, Series]], shown: Callable[[float], str], *, with_last: bool = True) -> str:
    items = []
    for color, item in drawn:
        last = next((y for y in reversed(item.ys) if y is not None), None)
        value = "" if last is None or not with_last else f" <b>{shown(last)}</b>"
        items.append(f'<span><i class="key b{color}"></i>{escape(item.name)}{value}</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 4}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
