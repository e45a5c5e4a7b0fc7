"""`prerouter route`: one request, or a JSONL file in input order."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prerouter.errors import ConfigError, DataError, InvalidRequest, ModelFolderError, UpstreamError
from prerouter.files import open_output, read_jsonl
from prerouter.progress import Progress
from prerouter.records import Decision
from prerouter.sections import ClassifierSettings
from prerouter.settings import Settings, load_settings, tag_pair

if TYPE_CHECKING:
    from prerouter.local import Explanation
    from prerouter.routecase import Body, Options
    from prerouter.routelog import RouteLog
    from prerouter.router import PreRouter

BATCH = 128  # rows between two flushes of the output
CALLS = 16  # classifier calls at a time, at most: 1,000 requests a minute (Haiku's lowest limit) are 16 at 1 s each
FAILURES = (
    *("local_error", "no_key", "classifier_timeout", "classifier_error", "classifier_refused", "classifier_invalid"),
    *("breaker_open", "classifier_budget"),
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the input: a request with its id, or what is wrong with it."""

    id: str
    line: int
    body: Body | None
    problem: DataError | None = None


@dataclass(slots=True)
class _Tally:
    """What a run came to."""

    by: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    cost_usd: float = 0.0

    def add(self, decision: Decision) -> None:
        self.by[decision.decided_by] += 1
        self.reasons[decision.reason] += 1
        self.cost_usd += decision.cost_usd

    def to_json(self) -> dict[str, Any]:
        rows = sum(self.by.values())
        return {
            "rows": rows,
            "failed": self.failed,
            "by_decided_by": dict(self.by),
            "cost_usd": round(self.cost_usd, 9),
        }


def run_route(options: argparse.Namespace) -> int:
    """Exit code of `prerouter route`."""
    from prerouter.routelog import RouteLog

    _check_usage(options)
    settings = load_settings()
    with ExitStack() as stack:
        log = stack.enter_context(RouteLog.open(settings=settings))
        router = stack.enter_context(_router(options.model, settings, log))
        decide_options = _decide_options(options, router)
        if options.input:
            return _route_file(router, options, decide_options)
        return _route_one(router, options, decide_options)


def _router(model: str | None, settings: Settings, log: RouteLog) -> PreRouter:
    from prerouter.router import PreRouter

    try:
        return PreRouter.load(model, settings=settings, log=log)
    except UpstreamError as error:  # a registry's; this command never exits 3
        raise ModelFolderError(error.what, where=error.where, next_step=error.next_step) from error


def _check_usage(options: argparse.Namespace) -> None:
    if bool(options.input) == (options.text is not None):
        step = "prerouter route 'TEXT', or prerouter route --input FILE"
        raise ConfigError("give a request or --input, one of the two", where="route", next_step=step)
    if options.output and not options.input:
        raise ConfigError("--output goes with --input", where="route", next_step="add --input FILE")
    if options.explain and options.input:
        raise ConfigError("--explain is for one request", where="route", next_step="prerouter route --explain 'TEXT'")


def _decide_options(options: argparse.Namespace, router: PreRouter) -> Options:
    chosen: Options = {
        "local_only": options.local_only,
        "min_tier": options.min_tier,
        "max_tier": options.max_tier,
        "priority": options.priority,
        "tags": dict(map(tag_pair, options.tag)),
    }
    # Names that do not exist are refused before the first line is read.
    router.policy.limits(min_tier=options.min_tier, max_tier=options.max_tier, priority=options.priority)
    return chosen


def _route_one(router: PreRouter, options: argparse.Namespace, chosen: Options) -> int:
    body = typed_body(sys.stdin.read() if options.text == "-" else options.text)
    explanation = _explained(router, body)
    if not options.local_only and not (explanation and explanation.reason == "above_gate"):
        router.warm()  # the deadline is for Claude, not for importing the SDK
    decision = router.decide(body, **chosen)
    shown = explanation if options.explain else None
    if options.json:
        extra = {"explanation": shown.to_json()} if shown else {}
        print(json.dumps(decision.to_json() | extra, ensure_ascii=False, allow_nan=False))
    else:
        print(one_line(decision), *([shown.to_text()] if shown else []), sep="\n")
    _hint({decision.reason: 1})
    return 0


def _explained(router: PreRouter, body: Body) -> Explanation | None:
    try:
        return router.explain(body)
    except InvalidRequest:
        raise
    except Exception:
        return None  # the Decision will say local_error


def typed_body(text: str) -> Body:
    """A Messages body if `text` is a JSON object with messages, else the text itself."""
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if '"messages"' in text:
                print(f"prerouter: hint: routed as text, for it is not JSON: {error}", file=sys.stderr)
            return text
        if isinstance(value, dict) and "messages" in value:
            return value
    return text


def one_line(decision: Decision) -> str:
    """A Decision for people."""
    route = f"{decision.label} -> {decision.model}" if decision.model else decision.label
    stage = f" stage {decision.stage}" if decision.stage is not None else ""
    by = f"{decision.decided_by}{stage}, {decision.reason}"
    moved = f", moved by {', '.join(decision.adjusted_by)}" if decision.adjusted_by else ""
    cost = f", ${decision.cost_usd:.6f}" if decision.cost_usd else ""
    return f"{route}  ({by}, confidence {decision.confidence:.2f}{moved}, {decision.seconds * 1000:.2f} ms{cost})"


def _hint(reasons: Mapping[str, int]) -> None:
    if unsure := reasons.get("no_key"):
        what = "the request was unsure" if sum(reasons.values()) == 1 else f"{unsure} requests were unsure"
        print(
            f"prerouter: hint: {what} and got the default label, because there is no key; "
            "set ANTHROPIC_API_KEY to have Claude Haiku classify such requests, or pass --local-only",
            file=sys.stderr,
        )


def _route_file(router: PreRouter, options: argparse.Namespace, chosen: Options) -> int:
    tally = _Tally()
    with ExitStack() as stack:
        source = sys.stdin.buffer if options.input == "-" else stack.enter_context(open(options.input, "rb"))
        sink = stack.enter_context(open_output(options.output, sources=[options.input]))
        progress = stack.enter_context(Progress("routing", source))
        if not options.local_only:
            router.warm()  # else the first rows would spend their deadline on importing the SDK
        pool = ThreadPoolExecutor(_workers(router.settings.classifier))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        as_json = bool(options.output) or options.json
        decide = functools.partial(_decided, router, file=options.input, chosen=chosen)
        for rows in _batches(_row(*line, options.input) for line in read_jsonl(source, options.input)):
            for row, decision in zip(rows, pool.map(decide, rows), strict=True):
                if isinstance(decision, DataError) and not options.skip_bad:
                    raise decision
                print(_output_line(row.id, decision, tally, as_json), file=sink)
            sink.flush()
            progress.advance(len(rows))
    _summary(tally, options)
    return 1 if tally.failed else 0


def _workers(settings: ClassifierSettings) -> int:
    """So many that none waits for the rate longer than its deadline allows."""
    from prerouter.flights import RATE_WAIT_SHARE

    return max(1, min(CALLS, int(settings.rpm / 60 * settings.deadline_s * RATE_WAIT_SHARE)))


def _summary(tally: _Tally, options: argparse.Namespace) -> None:
    if options.json and options.output and options.output != "-":
        print(json.dumps(tally.to_json()))
    rows = sum(tally.by.values())
    shares = ", ".join(f"{name} {count:,}" for name, count in tally.by.most_common())
    shares += "".join(f"; {count:,} {reason}" for reason, count in tally.reasons.items() if reason in FAILURES)
    failed = f"; {tally.failed} bad lines skipped" if tally.failed else ""
    print(f"prerouter: {rows:,} requests routed: {shares or 'none'}{failed}; ${tally.cost_usd:.6f}", file=sys.stderr)
    _hint(tally.reasons)


def _row(number: int, value: dict[str, Any] | DataError, file: str) -> _Row:
    if isinstance(value, DataError):
        return _Row(str(number), number, None, value)
    name = str(number) if value.get("id") is None else value["id"]
    problem, body = "", None
    if value.get("messages") is not None:
        body = {key: value[key] for key in ("messages", "system", "tools") if value.get(key) is not None}
    elif isinstance(value.get("text"), str):
        body = value["text"]
    else:
        problem = "neither `text` nor `messages`"
    if type(name) not in (str, int, float):
        problem, name = "the id is neither a string nor a number", str(number)
    wrong = DataError(problem, file=file, line=number, next_step="mend it or pass --skip-bad") if problem else None
    return _Row(str(name), number, body, wrong)


def _batches(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def _decided(router: PreRouter, row: _Row, file: str, chosen: Options) -> Decision | DataError:
    if row.problem:
        return row.problem
    assert row.body is not None
    options: Options = {**chosen, "request_id": row.id}
    try:
        return router.decide(row.body, **options)
    except InvalidRequest as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        return DataError(what, file=file, line=row.line, next_step="mend it or pass --skip-bad")


def _output_line(name: str, decision: Decision | DataError, tally: _Tally, as_json: bool) -> str:
    if isinstance(decision, Decision):
        tally.add(decision)
        return json.dumps(decision.to_json(), ensure_ascii=False) if as_json else f"{name}: {one_line(decision)}"
    tally.failed += 1
    return json.dumps({"id": name, "error": str(decision)}, ensure_ascii=False) if as_json else f"{name}: {decision}"
