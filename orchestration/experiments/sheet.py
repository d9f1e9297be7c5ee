"""All plots of an experiment as one SVG file with its own colours, for pages that show only images."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from orchestration.watch.svg import HEIGHT, WIDTH

COLUMNS = 2
TITLE, HEAD, GAP = 26, 64, 18
COLORS = ("#2563c9", "#d9730d", "#16876a", "#9b4dca", "#7d8592", "#b8860b")
_STYLE = """text { font-family: system-ui, sans-serif; } .grid { stroke: #e4e5e7; stroke-width: 1; }
.tick { fill: #667085; font-size: 11px; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.band { opacity: .16; } .target { fill: transparent; } """


def sheet(title: str, arms: Sequence[str], charts: Sequence[tuple[str, str]]) -> str:
    """One file.

    Args:
        title: at the top.
        arms: in the order of their colours.
        charts: (title, legend and <svg>), as `report.charts` gives them.
    """
    rows = -(-len(charts) // COLUMNS)
    cell = (WIDTH + GAP, HEIGHT + TITLE + GAP)
    width, height = COLUMNS * cell[0] + GAP, HEAD + rows * cell[1] + GAP
    colors = "".join(f".s{i} {{ stroke: {c}; }} .f{i} {{ fill: {c}; }} " for i, c in enumerate(COLORS))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{_STYLE}{colors}</style><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{GAP}" y="26" font-size="17" font-weight="600">{escape(title)}</text>',
    ]
    at = GAP
    for color, arm in enumerate(arms):
        parts.append(f'<rect class="f{color}" x="{at}" y="40" width="11" height="11"/>')
        parts.append(f'<text x="{at + 16}" y="50" font-size="13">{escape(arm)}</text>')
        at += 34 + 8 * len(arm)
    for index, (name, chart) in enumerate(charts):
        x, y = GAP + index % COLUMNS * cell[0], HEAD + index // COLUMNS * cell[1]
        drawing = chart[chart.index("<svg ") :]
        placed = f'<svg x="{x}" y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT + 4}" '
        parts.append(f'<text x="{x}" y="{y + 18}" font-size="14" font-weight="600">{escape(name)}</text>')
        parts.append(drawing.replace("<svg ", placed, 1))
    return "\n".join([*parts, "</svg>", ""])
