"""The look of report.html: one page, its style inline, no script, nothing loaded from anywhere."""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2129; --soft: #667085; --edge: #e4e5e7;
  --bad: #b42318; --c0: #2563c9; --c1: #d9730d; --c2: #16876a; --c3: #9b4dca; --c4: #98a0ab;
  --c5: #b8860b; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f25; --ink: #e6e8ec; --soft: #98a2b3;
  --edge: #30343c; --bad: #f97066; --c0: #6ea0f5; --c1: #f0a254; --c2: #4fc3a1; --c3: #c08be8;
  --c4: #7d8592; --c5: #d9b44a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 5rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.15rem; margin: 2.8rem 0 .8rem; }
h3 { font-size: .92rem; margin: 0 0 .35rem; font-weight: 600; } p { margin: .4rem 0; }
.sub, .note { color: var(--soft); } .note { font-size: .86rem; }
.lead { font-size: 1.06rem; max-width: 62rem; margin: 1.1rem 0 0; }
.warning { color: var(--bad); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1.4rem 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: .85rem 1rem; }
.tile .name { color: var(--soft); font-size: .82rem; } .tile .value { font-size: 1.45rem; font-weight: 650;
  font-variant-numeric: tabular-nums; } .tile .from { color: var(--soft); font-size: .84rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: .9rem; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--edge); stroke-width: 1; } .tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .band { opacity: .16; } .area { opacity: .85; }
.target { fill: transparent; } .legend { color: var(--soft); font-size: .82rem; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; margin-bottom: .3rem; } .legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); stroke-dasharray: 6 3; }
.s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); }
.f3 { fill: var(--c3); } .f4 { fill: var(--c4); } .b0 { background: var(--c0); } .b1 { background: var(--c1); }
.b2 { background: var(--c2); } .b3 { background: var(--c3); } .b4 { background: var(--c4); }
.s5 { stroke: var(--c5); } .f5 { fill: var(--c5); } .b5 { background: var(--c5); }
.matrix { width: auto; margin: 0 0 1rem; } .matrix th, .matrix td { padding-right: 1.6rem; }
.sample { margin: 0 0 .9rem; } .sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin-top: .6rem; }
@media (max-width: 46rem) { .sides { grid-template-columns: 1fr; } }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; padding: .55rem .7rem; border-radius: 7px;
  background: var(--page); border: 1px solid var(--edge); font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace;
  max-height: 15rem; overflow-y: auto; }
.votes { margin: .3rem 0 .5rem; } .vote { display: grid; grid-template-columns: minmax(3rem, 9rem) 1fr 3rem; gap: .6rem;
  align-items: center; font-size: .85rem; }
.vote code { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.vote i { display: block; height: .55rem; border-radius: 2px; background: var(--c4); min-width: 2px; }
.vote.won i { background: var(--c0); } .vote span { text-align: right; font-variant-numeric: tabular-nums; }
.tag { font-size: .8rem; color: var(--soft); } .tag.won { color: var(--c0); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; } th { text-align: left; color: var(--soft);
  font-weight: 500; } th, td { padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--edge);
  vertical-align: top; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .92em ui-monospace, Menlo, Consolas, monospace; } summary { cursor: pointer; color: var(--soft); }
"""


def page(title: str, body: str) -> str:
    """The whole document."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def cut(text: str, limit: int) -> str:
    """The first `limit` characters, with how many more there are."""
    return text if len(text) <= limit else text[:limit] + f" ... ({len(text) - limit:,} more characters)"


def section(title: str, content: str, note: str = "") -> str:
    """A titled part of the page; "" when it has no content."""
    if not content:
        return ""
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>{lead}{content}"


def tile(name: str, value: str, origin: str) -> str:
    """A headline figure, with where it came from beneath."""
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="from">{escape(origin)}</div></div>'
    )


def card(title: str, content: str, note: str = "") -> str:
    """A plot in its frame; "" when there is nothing to plot."""
    foot = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}{foot}</div>' if content else ""


def table(head: list[str], rows: list[list[str]], numeric: set[int], *, css: str = "") -> str:
    """A table of escaped cells; "" without rows. `numeric` columns are right-aligned; `css` is its class."""
    if not rows:
        return ""

    def cells(values: list[str], tag: str) -> str:
        kinds = (' class="n"' if index in numeric else "" for index in range(len(values)))
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for value, kind in zip(values, kinds, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    opened = f'<table class="{css}">' if css else "<table>"
    return f'<div class="scroll">{opened}<thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'
