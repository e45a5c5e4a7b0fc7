"""HTTP/1.1 by hand on asyncio, so that a reply can drip, hang, be cut short or end in a connection reset."""

from __future__ import annotations

import asyncio
import http
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Reply:
    """One reply. A list as body is sent chunked.

    drip_s, interval_s: spread over this time, a piece every interval; drip_head: the headers too.
    reset: the connection is reset where the body ends, half of it sent.
    """

    status: int
    body: bytes | list[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0.0
    interval_s: float = 0.02
    drip_head: bool = False
    reset: bool = False

    def head(self) -> bytes:
        """Status line and headers."""
        reason = http.HTTPStatus(self.status).phrase if self.status in _KNOWN else "Overloaded"
        chunked = isinstance(self.body, list)
        length = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(self.body))}
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{k}: {v}" for k, v in (self.headers | length).items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def payload(self) -> bytes:
        """The body as it goes over the wire, as much of it as is sent."""
        if isinstance(self.body, bytes):
            return self.body[: len(self.body) // 2] if self.reset else self.body
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.body)
        return chunks if self.reset else chunks + b"0\r\n\r\n"


_KNOWN = {status.value for status in http.HTTPStatus}
Send = Callable[[Reply | None], Awaitable[None]]  # None: reset the connection without a reply
Handler = Callable[[Request, Send], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client. Its requests are handled one after the other; when it goes away its handler is cancelled."""

    def __init__(self, handle: Handler, everyone: set[Connection]) -> None:
        self._handle, self._everyone = handle, everyone
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._everyone.discard(self)
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def reset(self) -> asyncio.Task[None] | None:
        """Break the connection off; returns the task that was at work."""
        linger = struct.pack("ii", 1, 0)  # so that the peer gets a RST, not an orderly end
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
        return self._task

    def _advance(self) -> None:
        if self._task is not None:
            return
        try:
            request = self._next_request()
        except ValueError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    def _next_request(self) -> Request | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head[2].get("expect") == "100-continue":
                self._transport.write(CONTINUE)
        method, target, headers = self._head
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._head = None
        url = urlsplit(target)
        return Request(method, unquote(url.path), parse_qs(url.query), headers, body)

    async def _answer(self, request: Request) -> None:
        await self._handle(request, self._send)
        if request.headers.get("connection") == "close":
            self._transport.close()
        elif not self._transport.is_closing():
            self._task = None
            self._advance()

    async def _send(self, reply: Reply | None) -> None:
        if reply is not None:
            await self._write(reply)
        if reply is None or reply.reset:
            self.reset()

    async def _write(self, reply: Reply) -> None:
        head, payload = reply.head(), reply.payload()
        if not reply.drip_s:
            self._transport.write(head + payload)
            return
        at_once, slow = (b"", head + payload) if reply.drip_head else (head, payload)
        self._transport.write(at_once)
        steps = max(1, min(len(slow), int(reply.drip_s / reply.interval_s)))
        size = math.ceil(len(slow) / steps)
        for start in range(0, len(slow), size):
            await asyncio.sleep(reply.drip_s / steps)
            self._transport.write(slow[start : start + size])


def _head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    return method, target, {name.strip().lower(): value.strip() for name, _, value in pairs}
