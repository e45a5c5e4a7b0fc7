"""The page of `prerouter review`, served on loopback to the one browser that was given its address.

Other users and other sites are kept out: the server listens on 127.0.0.1; every question carries a token that stands
behind the # of the address, so it is in no request line and no log; a Host header other than ours is refused (DNS
rebinding), and so is what another site's page sends. The page loads nothing from elsewhere and runs only its own file
(Content Security Policy).
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prerouter.agreement import Interval
from prerouter.errors import PreRouterError
from prerouter.reviewset import Item, Review, Standing

MAX_BODY = 65_536  # bytes of a question; they are below 1 kB
IDLE_S = 60.0  # after which a silent connection is closed
PAGE = Path(__file__).with_name("reviewpage")
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ReviewServer(ThreadingHTTPServer):
    """Serves `review` until it is finished. port: 0 takes a free one. Raises OSError when the port is taken."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, review: Review, name: str, port: int = 0) -> None:
        self.review, self.name = review, name
        self.ended = threading.Event()
        self._token = secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser may call this server."""
        return f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return f"http://{self.hosts[0]}/#{self._token}"

    def knows(self, token: str) -> bool:
        """Whether `token` is that of `url`."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def end(self) -> None:
        """Have `serve_forever` return, from one of its own threads."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    def do(self, path: str, body: Mapping[str, Any]) -> None:
        """What a question asks for. A key that is not the current row's changes nothing: the page is behind."""
        key, label = str(body.get("key")), str(body.get("label"))
        if path == "/answer":
            self.review.answer(key, label)
        elif path == "/skip":
            self.review.skip(key)
        elif path == "/undo":
            self.review.undo()
        elif path == "/finish":
            self.ended.set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no error."""


ACTIONS = ("/state", "/answer", "/skip", "/undo", "/finish")


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def version_string(self) -> str:
        return "prerouter"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows what the review came to."""

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(403, "this is not the address of the review")
        elif self.path in FILES:
            name, kind = FILES[self.path]
            self._send(200, (PAGE / name).read_bytes(), kind)
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        body = self._body()  # read in any case: what is left in the connection would be the next request
        if body is None:
            self._refuse(400, "the question cannot be read")
        elif not self._is_ours():
            self._refuse(403, "the address lacks its token; open the one that prerouter review printed")
        elif self.path not in ACTIONS:
            self._refuse(404, "there is no such question")
        else:
            self._act(body)

    def _act(self, body: Mapping[str, Any]) -> None:
        try:
            self.server.do(self.path, body)
            self._reply(200, state(self.server))
        except PreRouterError as error:
            self._reply(400, state(self.server) | {"error": str(error)})
        except OSError as error:
            self._reply(500, state(self.server) | {"error": f"Not saved: {error.strerror or error}."})
        if self.server.ended.is_set():  # only now that the page knows
            self.server.end()

    def _is_ours(self) -> bool:
        headers = self.headers
        ours = headers.get("Host") in self.server.hosts
        origin = headers.get("Origin")
        from_page = origin is None or origin in {f"http://{host}" for host in self.server.hosts}
        same_site = headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        is_json = headers.get_content_type() == "application/json"
        return ours and from_page and same_site and is_json and self.server.knows(headers.get("X-Prerouter-Token", ""))

    def _body(self) -> dict[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    def _refuse(self, status: int, why: str) -> None:
        self._reply(status, {"error": why})

    def _reply(self, status: int, value: Mapping[str, Any]) -> None:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
        self._send(status, data, "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def state(server: ReviewServer) -> dict[str, Any]:
    """What the page shows."""
    review = server.review
    item, standing = review.current, review.standing()
    labels = [
        {"name": label.name, "told": " ".join(filter(None, (label.definition, label.distinction)))}
        for label in review.taxonomy.labels
    ]
    return {
        "file": server.name,
        "labels": labels,
        "item": _item(item) if item else None,
        "can_undo": review.can_undo,
        "ended": server.ended.is_set(),
        "standing": standing.to_json() | {"line": _line(standing), "result": result(standing)},
    }


def result(standing: Standing) -> str:
    """What the review came to so far, in a sentence or two."""
    said = f"{standing.done:,} of {standing.total:,} rows reviewed, {standing.corrected:,} corrected."
    found = standing.agreement
    if found.share is None:
        return said
    kappa = f", Cohen's kappa {found.kappa.estimate:.2f}" if found.kappa else ""
    drawn = f"On the {found.n_rows:,} rows drawn at random the labeller agrees with the reviewer in"
    return f"{said} {drawn} {_percent(found.share)}{kappa}."


def _line(standing: Standing) -> str:
    share = standing.agreement.share
    agree = f" · labeller right: {_percent(share)}" if share else ""
    return f"{standing.done:,} of {standing.total:,} · {standing.corrected:,} corrected{agree}"


def _percent(share: Interval) -> str:
    return f"{share.estimate:.0%} ({share.lower:.0%} to {share.upper:.0%})"


def _item(item: Item) -> dict[str, Any]:
    row, request = item.row, item.request
    votes = row.get("votes")
    by = f" by {row['labelled_by']}" if row.get("labelled_by") else ""
    confidence = row.get("confidence")
    sure = f", confidence {confidence:.2f}" if isinstance(confidence, int | float) else ""
    about = [f"id {row['id']}" if row.get("id") is not None else "", str(row.get("source") or "")]
    return {
        "key": item.key,
        "about": " · ".join([*filter(None, about), f"{request.n_chars:,} characters"]),
        "text": request.text,
        "context": request.context,
        "label": item.label,
        "said": f"Labelled {item.label}{by}{sure}.",
        "votes": votes if isinstance(votes, Mapping) else {},
    }
