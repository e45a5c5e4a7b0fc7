"""`prerouter send`: one request or a JSONL file through Dispatch."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from prerouter import mapping
from prerouter.dispatchrecords import Routing
from prerouter.errors import ConfigError, DataError, InvalidRequest, PreRouterError, UpstreamError
from prerouter.files import expanded, open_output, read_jsonl
from prerouter.progress import Progress
from prerouter.routing import typed_body
from prerouter.settings import Settings, load_settings, tag_pair

if TYPE_CHECKING:
    from prerouter.dispatch import Dispatch

# What of a line is sent; what else data rows have (labels, votes, sources) is not.
PARAMETERS = (
    *("messages", "system", "tools", "tool_choice", "max_tokens", "thinking", "output_config", "stop_sequences"),
    *("metadata", "cache_control", "container", "inference_geo", "service_tier", "speed", "model", "dispatch_config"),
)
_USAGE = (ConfigError, InvalidRequest, DataError)  # what was asked is wrong: exit 2; everything else exits 3
_HOPELESS = (401, 402)  # no request will be answered


def run_send(options: argparse.Namespace) -> int:
    """Exit code of `prerouter send`."""
    _check_usage(options)
    settings = load_settings()
    with ExitStack() as stack:
        usual = usual_of(options)
        requests = None if options.input else [request_of(_typed(options.text), usual, "the request")]
        rows = _Rows(options.input, usual) if options.input else None
        client = stack.enter_context(open_dispatch(settings, stack))
        if rows is None:
            assert requests
            return _send_one(client, options, requests[0])
        return _send_file(client, options, rows)


def _check_usage(options: argparse.Namespace) -> None:
    if bool(options.input) == (options.text is not None):
        step = "prerouter send 'TEXT', or prerouter send --input FILE"
        raise ConfigError("give a request or --input, one of the two", where="send", next_step=step)
    if options.output and not options.input:
        raise ConfigError("--output goes with --input", where="send", next_step="add --input FILE, or use > FILE")
    if options.stream and options.input:
        raise ConfigError("--stream is for one request", where="send", next_step="prerouter send --stream 'TEXT'")


def open_dispatch(settings: Settings, stack: ExitStack, *, needs_key: bool = True) -> Dispatch:
    """A Dispatch with router and log of its own, closed with `stack`. Raises UpstreamError without a key."""
    from prerouter.dispatch import Dispatch
    from prerouter.routelog import RouteLog
    from prerouter.router import PreRouter
    from prerouter.sdk import KEYS, has_key

    if needs_key and not has_key():
        step = f"set {KEYS[0]}"
        raise UpstreamError("there is no key to send with", where="environment", next_step=step, attempts=0)
    log = stack.enter_context(RouteLog.open(settings=settings))
    router = stack.enter_context(PreRouter.load(settings=settings))
    return Dispatch(router=router, log=log)


def usual_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a request gets that does not say it itself."""
    bounds = {name: getattr(options, name) for name in ("min_tier", "max_tier", "priority")}
    config = {name: value for name, value in bounds.items() if value is not None}
    tags = dict(map(tag_pair, options.tag))
    usual: dict[str, Any] = {"model": options.model, "max_tokens": options.max_tokens}
    if options.system:
        usual["system"] = _read(options.system)
    if config or tags:
        usual["dispatch_config"] = config | ({"tags": tags} if tags else {})
    return usual


def _read(name: str) -> str:
    try:
        return expanded(name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=name, next_step="convert it") from error


def _typed(text: str) -> str | Mapping[str, Any]:
    return typed_body(sys.stdin.read() if text == "-" else text)


def request_of(body: str | Mapping[str, Any], usual: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keyword arguments of `messages.create`; `text` stands for a message of the user's. Raises InvalidRequest."""
    said = {"text": body} if isinstance(body, str) else body
    own = _own(said)
    if "messages" not in own:
        text = said.get("text")
        if not isinstance(text, str) or not text.strip():
            what = "there is nothing to send" if isinstance(text, str) else "neither `text` nor `messages`"
            raise InvalidRequest(what, where=where, next_step="give some text")
        own["messages"] = [{"role": "user", "content": text}]
    config = own.get("dispatch_config", {})
    if not isinstance(config, Mapping):
        raise InvalidRequest("dispatch_config is not an object", where=where, next_step='such as {"priority": "cost"}')
    both = {**usual.get("dispatch_config", {}), **config}
    return {**usual, **own} | ({"dispatch_config": both} if both else {})


def _own(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in PARAMETERS if body.get(name) is not None}


def _send_one(client: Dispatch, options: argparse.Namespace, request: dict[str, Any]) -> int:
    try:
        reply = _streamed(client, request, options) if options.stream else client.messages.create(**request)
    except Exception as error:
        raise told_error(error) from error
    if options.json:
        print(reply.to_json())
    elif not options.stream:
        print(_text(reply))
    print(one_line(getattr(reply, "routing", None), reply), file=sys.stderr)
    return 0


def _streamed(client: Dispatch, request: dict[str, Any], options: argparse.Namespace) -> Any:
    """The whole Message; its text was printed as it came."""
    with client.messages.stream(**request) as stream:
        for piece in stream.text_stream:
            if not options.json:
                print(piece, end="", flush=True)
        reply = stream.get_final_message()
    if not options.json:
        print()
        _text(reply)
    return reply


def _text(reply: Any) -> str:
    """Its text. Raises UpstreamError when there is none: an empty output must not look like an answer."""
    said = "".join(block.text for block in reply.content if block.type == "text")
    if said or reply.stop_reason in ("end_turn", "stop_sequence"):
        return said
    details = getattr(reply, "stop_details", None)
    why = ", ".join(filter(None, (reply.stop_reason, getattr(details, "category", None))))
    step = "raise --max-tokens" if reply.stop_reason == "max_tokens" else "--json prints all of it"
    raise UpstreamError("the answer has no text", where=why, next_step=step)


def told_error(error: Exception) -> Exception:
    """The error as the command line reports it: exit 3 when no reply was had for no fault of the user's."""
    if isinstance(error, _USAGE):
        return error
    if isinstance(error, UpstreamError) or type(error).__module__.partition(".")[0] not in ("anthropic", "prerouter"):
        return error
    if isinstance(error, PreRouterError):
        return UpstreamError(error.what, where=error.where, next_step=error.next_step, cause=error)
    from prerouter.sdkfaults import fault

    step = "check the key and the request" if getattr(error, "status_code", 500) < 500 else "try again later"
    return UpstreamError(f"Claude refused: {fault(error).told}", where="send", next_step=step, cause=error)


def one_line(routing: Routing | None, reply: Any) -> str:
    """How a reply was had, for people."""
    if routing is None:
        return f"prerouter: sent to {reply.model} as it is, not routed"
    decision, tries = routing.decision, len(routing.attempts)
    stage = f" stage {decision.stage}" if decision.stage is not None else ""
    moved = f", moved by {', '.join(decision.adjusted_by)}" if decision.adjusted_by else ""
    by = f"{decision.decided_by}{stage}, {decision.reason}, confidence {decision.confidence:.2f}{moved}"
    adapted = f", adapted: {', '.join(routing.adaptations)}" if routing.adaptations else ""
    top = f" instead of ${routing.baseline_usd:.6f}" if routing.baseline_usd is not None else ""
    spent = f"{tries} attempt{'s' * (tries != 1)}{adapted}, {routing.seconds:.2f} s, ${routing.cost_usd:.6f}{top}"
    warned = "".join(f"; {warning}" for warning in routing.warnings)
    return f"prerouter: {decision.label} -> {routing.served or routing.model}  ({by}; {spent}){warned}"


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the input."""

    id: str
    request: dict[str, Any]


class _Rows:
    """The lines of the input, all of them checked before the first is sent. Raises DataError, OSError."""

    def __init__(self, name: str, usual: Mapping[str, Any]) -> None:
        self.name, self._usual = name, usual
        self._kept = list(self._parsed(sys.stdin.buffer)) if name == "-" else None
        self._total = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[_Row]:
        if self._kept is not None:
            yield from self._kept
            return
        with open(expanded(self.name), "rb") as lines:
            yield from self._parsed(lines)

    def _parsed(self, lines: Any) -> Iterator[_Row]:
        for number, value in read_jsonl(lines, self.name):
            if isinstance(value, DataError):
                raise DataError(value.what, file=self.name, line=number, next_step="mend it")
            yield self._row(number, value)

    def _row(self, number: int, value: dict[str, Any]) -> _Row:
        name = number if value.get("id") is None else value["id"]
        if type(name) not in (str, int, float):
            raise DataError("the id is neither a string nor a number", file=self.name, line=number, next_step="mend it")
        try:
            return _Row(str(name), request_of(value, self._usual, f"line {number}"))
        except InvalidRequest as error:
            raise DataError(error.what, file=self.name, line=number, next_step=error.next_step) from error


@dataclass(slots=True)
class _Writer:
    """Replies to the output in input order, each as soon as those before it are there."""

    sink: TextIO
    names: dict[int, str]
    by_tier: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, Any] = field(default_factory=dict)
    written: int = 0
    failed: int = 0
    usd: float = 0.0

    def add(self, at: int, result: Any) -> None:
        """Take the reply or error of the request `at`."""
        self._count(result)
        self.waiting[at] = result
        while self.written in self.waiting:
            line = _line(self.names.pop(self.written), self.waiting.pop(self.written))
            print(json.dumps(line, ensure_ascii=False, allow_nan=False), file=self.sink, flush=True)
            self.written += 1
        status = getattr(result, "status_code", None) or getattr(getattr(result, "cause", None), "status_code", None)
        if status in _HOPELESS and not self.by_tier:
            raise told_error(result)

    def finish(self) -> None:
        """Write what came although something before it did not."""
        for at in sorted(self.waiting):
            print(json.dumps(_line(self.names.pop(at), self.waiting[at]), ensure_ascii=False), file=self.sink)
        self.waiting.clear()

    def _count(self, result: Any) -> None:
        routing = getattr(result, "routing", None)
        self.usd += float(routing.cost_usd) if routing else 0.0
        if isinstance(result, Exception):
            self.failed += 1
        else:
            served = next((a.tier for a in routing.attempts if a.outcome == "answered"), None) if routing else None
            self.by_tier[served or result.model] += 1


def _line(name: str, result: Any) -> dict[str, Any]:
    routing = getattr(result, "routing", None)
    told = {"routing": routing.to_json() if routing else None}
    if not isinstance(result, Exception):
        return {"id": name, "message": result.to_dict(mode="json"), **told}
    error = told_error(result)
    shown = error.to_json() if isinstance(error, PreRouterError) else {"type": type(error).__name__}
    return {"id": name, "error": shown, **told}


def _send_file(client: Dispatch, options: argparse.Namespace, rows: _Rows) -> int:
    sources = [] if options.input == "-" else [Path(options.input)]
    broken: Exception | None = None
    with ExitStack() as stack:
        writer = _Writer(stack.enter_context(open_output(options.output, sources=sources)), {})
        progress = stack.enter_context(Progress("sending", total=len(rows)))
        stack.callback(writer.finish)

        def requests() -> Iterator[dict[str, Any]]:
            for at, row in enumerate(rows):
                writer.names[at] = row.id
                yield row.request

        def each(at: int, result: Any) -> None:
            writer.add(at, result)
            progress.advance(1)

        try:
            mapping.run(client, requests(), concurrency=options.concurrency, each=each)
        except Exception as error:
            if not writer.by_tier:
                raise
            broken = error  # replies were paid for: they are kept
    if broken:
        raise broken
    return _summary(writer, options)


def _summary(writer: _Writer, options: argparse.Namespace) -> int:
    sent = sum(writer.by_tier.values())
    if options.json and options.output not in (None, "-"):
        told = {"rows": sent + writer.failed, "answered": sent, "failed": writer.failed, "by_tier": writer.by_tier}
        print(json.dumps(told | {"cost_usd": round(writer.usd, 9)}))
    shares = ", ".join(f"{name} {count:,}" for name, count in writer.by_tier.most_common())
    failed = f"; {writer.failed:,} without a reply" if writer.failed else ""
    print(f"prerouter: {sent:,} replies: {shares or 'none'}{failed}; ${writer.usd:.6f}", file=sys.stderr)
    return 3 if writer.failed and not sent else 1 if writer.failed else 0
