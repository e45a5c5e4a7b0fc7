"""What Dispatch adds to a call of the bare SDK: `python training/benchmarks/dispatch.py`.

Requests of about 25 tokens from labels/ that the first stage decides; the log on. Both clients send the
same body, in turn, in one run, to a server that answers at once: in this process, where nothing but the clients takes
time, and over loopback. Each text is sent once unmeasured: the first stage has then seen its words. `added_ms` is the
median of the differences within a pair of calls, one right after the other; `added_cpu_ms` is what Dispatch adds to
the processor time of the whole process, its threads and the log's writer included: what others run does not change it.
Prints the figures as JSON and writes them to dispatch.json beside this file.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import httpx2

from prerouter.dispatch import AsyncDispatch, Dispatch
from prerouter.files import shipped
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter

ROUNDS = 8  # calls of each text with each client
TEXTS = 100
CHARS = (80, 130)  # about 25 tokens
USAGE = {"input_tokens": 30, "output_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


Times = tuple[float, float]  # milliseconds of wall and processor


def main() -> None:
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder, PreRouter.load() as router:
        texts = decided(router)
        result: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "anthropic": anthropic.__version__,
            "load_before": load,  # what others ran: above the number of cores, times are inflated
            "texts": len(texts),
            "calls": len(texts) * ROUNDS,
        }
        with RouteLog.open(Path(folder) / "routes.db") as log:
            result["in_process"] = sync_side(texts, router, log, offline())
            result["in_process_async"] = asyncio.run(async_side(texts, router, log))
            with Loopback() as url:
                result["loopback"] = sync_side(texts, router, log, httpx2.Client(), url)
            log.flush(30)
            result["logged"] = log.stats().rows
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


def decided(router: PreRouter) -> list[str]:
    """Texts of the asked length that the first stage decides."""
    files = [shipped(f"labels/{name}.jsonl") for name in ("heldout", "examples")]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    texts = [row["text"] for row in map(json.loads, lines) if "text" in row]
    short = [text for text in texts if CHARS[0] <= len(text) <= CHARS[1]]
    return [text for text in short if router.decide(text, local_only=True).stage == 0][:TEXTS]


def body(text: str, model: str) -> dict[str, Any]:
    """A request."""
    return {"model": model, "max_tokens": 500, "messages": [{"role": "user", "content": text}]}


def answer(asked: bytes) -> bytes:
    """The Message for a request."""
    said = {"type": "text", "text": "A simulated answer.", "citations": None}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": json.loads(asked)["model"]}
    message |= {"content": [said], "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE}
    return json.dumps(message).encode()


def respond(request: httpx2.Request) -> httpx2.Response:
    """The same, as a transport in this process gives it."""
    return httpx2.Response(200, content=answer(request.content), headers={"content-type": "application/json"})


def offline() -> httpx2.Client:
    """A transport that answers within this process."""
    return httpx2.Client(transport=httpx2.MockTransport(respond))


def sync_side(
    texts: list[str], router: PreRouter, log: RouteLog, http: httpx2.Client, url: str = "http://offline.invalid"
) -> dict[str, float]:
    """Milliseconds of both sync clients."""
    bare = anthropic.Anthropic(api_key="benchmark", base_url=url, http_client=http, max_retries=0)
    with Dispatch(bare, router, log) as ours:
        pairs = []
        for number in range(ROUNDS + 1):
            for text in texts:
                routed = timed(partial(ours.messages.create, **body(text, "claude-dispatch")))
                plain = timed(partial(bare.messages.create, **body(text, "claude-haiku-5-5")))
                pairs += [(plain, routed)] if number else []
    return figures(pairs)


async def async_side(texts: list[str], router: PreRouter, log: RouteLog) -> dict[str, float]:
    """Milliseconds of both async clients, one call at a time."""

    async def aoffline(request: httpx2.Request) -> httpx2.Response:
        return respond(request)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(aoffline))
    bare = anthropic.AsyncAnthropic(
        api_key="benchmark", base_url="http://offline.invalid", http_client=http, max_retries=0
    )
    async with AsyncDispatch(bare, router, log) as ours:
        pairs = []
        for number in range(ROUNDS + 1):
            for text in texts:
                routed = await atimed(partial(ours.messages.create, **body(text, "claude-dispatch")))
                plain = await atimed(partial(bare.messages.create, **body(text, "claude-haiku-5-5")))
                pairs += [(plain, routed)] if number else []
    return figures(pairs)


def figures(pairs: list[tuple[Times, Times]]) -> dict[str, float]:
    """Medians and the ninetieth percentile, in milliseconds; of processor time the mean, for it is counted coarsely."""
    added = [routed[0] - plain[0] for plain, routed in pairs]
    plain, routed = (statistics.median(times[0] for times in side) for side in zip(*pairs, strict=True))
    return {
        "bare_ms": round(plain, 3),
        "dispatch_ms": round(routed, 3),
        "added_ms": round(statistics.median(added), 3),
        "added_p90_ms": round(statistics.quantiles(added, n=10)[-1], 3),
        "added_cpu_ms": round(statistics.mean(routed[1] - plain[1] for plain, routed in pairs), 3),
        "ratio": round(routed / plain, 3),
    }


def timed(work: Callable[[], object]) -> Times:
    """One call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


async def atimed(work: Callable[[], Awaitable[object]]) -> Times:
    """The same, awaited."""
    wall, processor = time.perf_counter(), time.process_time()
    await work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


class Loopback:
    """A server on loopback that answers at once and keeps connections."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                said = answer(self.rfile.read(int(self.headers["content-length"])))
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
                self.wfile.write(head.encode() + said)  # at once: else Nagle's algorithm adds 40 ms

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    main()
