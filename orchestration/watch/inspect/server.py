"""The web server of `quorum inspect`: loopback only, GET only, nothing written, nothing loaded from elsewhere."""

from __future__ import annotations

import threading
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from orchestration.watch.inspect.compare import compare_page
from orchestration.watch.inspect.html import document
from orchestration.watch.inspect.index import RunIndex
from orchestration.watch.inspect.pages import group_page, list_page, pair_page
from orchestration.watch.inspect.selection import Selection
from orchestration.watch.report_page import STYLE
from quorum.errors import DataError
from quorum.types import Role

_WAIT_SECONDS = 120.0
"""For another page that is being made."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class InspectServer(ThreadingHTTPServer):
    """Serves one run, or two, on 127.0.0.1. Port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, run: Path, against: Path | None = None, port: int = 0) -> None:
        self.runs = [RunIndex(path) for path in (run, against) if path is not None]
        self.turn = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Address of the list."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def answer(self, target: str) -> str | None:
        """The page at a path with its query; None where there is none. Raises DataError."""
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise DataError(f"got {target!r}, wanted a path with a query") from error
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        against = self.runs[1] if len(self.runs) > 1 else None
        if parts.path == "/":
            roles = self.runs[0].roles or [Role.TRAIN]
            return list_page(self.runs[0], Selection.parse({"role": roles[0].value, **query}))
        if parts.path == "/compare":
            return compare_page(self.runs, query)
        if parts.path == "/pair":
            return pair_page(self.runs, query.get("a", ""), query.get("b", ""))
        if parts.path == "/group":
            try:
                role, step, group = Role(query["role"]), int(query["step"]), int(query["group"])
            except (KeyError, ValueError) as error:
                raise DataError("a group is named by role, step and group") from error
            return group_page(self.runs[0], role, step, group, against)
        return None


class _Handler(BaseHTTPRequestHandler):
    server: InspectServer
    timeout = 30

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost", "[::1]"):
            self._send(403, document("Refused", "<p>This page is for this machine only.</p>"))
        elif self.path == "/style.css":
            self._send(200, STYLE + Path(__file__).with_name("style.css").read_text(encoding="utf-8"), "text/css")
        else:
            self._send(*self._page())

    def _page(self) -> tuple[int, str]:
        if not self.server.turn.acquire(timeout=_WAIT_SECONDS):
            return 503, document("Busy", "<p>Another page is still being made; reload.</p>")
        try:
            page = self.server.answer(self.path)
        except DataError as error:
            return 400, document("Not shown", f'<p class="warning">{escape(str(error))}</p><p><a href="/">back</a></p>')
        finally:
            self.server.turn.release()
        return (200, page) if page is not None else (404, document("Nothing here", '<p><a href="/">back</a></p>'))

    def _send(self, code: int, text: str, kind: str = "text/html") -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(code)
        for name, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal belongs to the command."""
