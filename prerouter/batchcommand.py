"""`prerouter batch`."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from prerouter.batchestimate import Estimate
from prerouter.batchfile import line_of, read_requests
from prerouter.errors import BudgetExceeded, ConfigError
from prerouter.files import open_output
from prerouter.progress import Progress
from prerouter.sending import open_dispatch, told_error, usual_of
from prerouter.settings import load_settings

if TYPE_CHECKING:
    from prerouter.batchverbs import BatchVerbs

TICK_S, QUIET_TICK_S = 1.0, 600.0  # between two words about waiting, on a terminal and without one
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


def run_submit(options: argparse.Namespace) -> int:
    """Exit code of `prerouter batch submit`."""
    at = _moment(options.at, datetime.datetime.now()) if options.at else None
    requests = read_requests(options.file, usual_of(options))
    with ExitStack() as stack:
        verbs = _verbs(stack, needs_key=not options.estimate)
        found: Estimate = verbs.run(partial(verbs.estimate, requests))
        if options.estimate:
            print(json.dumps(found.to_json()) if options.json else _words(found))
            return 0
        print(f"prerouter: {_words(found)}", file=sys.stderr)
        if at:
            _wait_until(at)
        sent: list[Estimate] = []
        batch = _submitted(verbs, requests, options.max_usd, sent)
        told = _shown(batch) | {"parts": list(batch.parts), "estimate": sent[0].to_json()}
        print(json.dumps(told) if options.json else batch.id)
        print(f"prerouter: sent: {_words(sent[0])}", file=sys.stderr)
        print(f"prerouter: next: prerouter batch results {batch.id} --wait -o FILE", file=sys.stderr)
    return 1 if sent[0].refused else 0


def run_status(options: argparse.Namespace) -> int:
    """Exit code of `prerouter batch status`."""
    with ExitStack() as stack:
        verbs = _verbs(stack)
        names = [options.id] if options.id else verbs.known()
        shown = []
        for name in names:
            batch = _asked(verbs, "retrieve", name)
            shown.append(_shown(batch) | {"parts": list(batch.parts), "by_model": verbs.by_model(name)})
    if options.json:
        print(json.dumps(shown[0] if options.id else {"batches": shown}))
    else:
        for one in shown:
            print(_status_line(one))
    return 0


def run_results(options: argparse.Namespace) -> int:
    """Exit code of `prerouter batch results`."""
    with ExitStack() as stack:
        verbs = _verbs(stack)
        name = options.id or _newest(verbs)
        batch = _asked(verbs, "retrieve", name)
        if options.wait and batch.processing_status != "ended":
            batch = _ended(verbs, name, options.poll_seconds or load_settings().label.poll_s)
        if batch.processing_status != "ended":
            print(f"prerouter: {_status_line(_shown(batch))}; --wait waits", file=sys.stderr)
            if options.json:
                print(json.dumps(_shown(batch)))
            return 1
        return _write(verbs, name, options)


def _write(verbs: BatchVerbs, name: str, options: argparse.Namespace) -> int:
    counts, usd = Counter[str](), 0.0
    with open_output(options.output) as out:
        for result in _asked(verbs, "results", name):
            print(json.dumps(line_of(result), ensure_ascii=False, allow_nan=False), file=out)
            counts[result.result.type] += 1
            usd += float(result.routing.cost_usd) if result.routing else 0.0
    answered, failed = counts["succeeded"], counts.total() - counts["succeeded"]
    if options.json and options.output not in (None, "-"):
        told = {"id": name, "rows": counts.total(), "answered": answered, "failed": failed, "counts": dict(counts)}
        print(json.dumps(told | {"cost_usd": round(usd, 9)}))
    without = f"; {failed:,} without a reply" if failed else ""
    print(f"prerouter: {answered:,} replies{without}; ${usd:.6f} for those that were routed", file=sys.stderr)
    return 3 if failed and not answered else 1 if failed else 0


def _verbs(stack: ExitStack, *, needs_key: bool = True) -> BatchVerbs:
    client = stack.enter_context(open_dispatch(load_settings(), stack, needs_key=needs_key))
    return client.routed_batches


def _submitted(verbs: BatchVerbs, requests: list[dict[str, Any]], max_usd: float | None, sent: list[Estimate]) -> Any:
    def sending(found: Estimate) -> None:
        sent.append(found)
        most = found.usd_at_most + found.classifier_usd
        if max_usd is not None and (most > max_usd or found.unpriced):
            step = "raise --max-usd, or lower max_tokens"
            what = f"the batch may cost ${most:,.4f}" if most > max_usd else f"{found.unpriced} items have no price"
            error = BudgetExceeded(f"{what}: nothing was sent", where="--max-usd", next_step=step)
            error.exit_code = 1
            raise error

    with Progress("deciding", total=len(requests)) as progress:
        work = partial(verbs.create, requests, {}, beta=False, told=progress.advance, sending=sending)
        try:
            return verbs.run(work)
        except BudgetExceeded:
            raise
        except Exception as error:
            raise told_error(error) from error


def _asked(verbs: BatchVerbs, verb: str, name: str) -> Any:
    try:
        return verbs.run(partial(getattr(verbs, verb), name, beta=False))
    except Exception as error:
        raise told_error(error) from error


def _ended(verbs: BatchVerbs, name: str, poll_s: float) -> Any:
    """The batch, once it has ended."""
    began = time.monotonic()
    print(f"prerouter: waiting for {name}: mostly within an hour, at most 24; Ctrl-C loses nothing", file=sys.stderr)
    while (batch := _asked(verbs, "retrieve", name)).processing_status != "ended":
        if sys.stderr.isatty():
            minutes = (time.monotonic() - began) / 60
            print(f"\rprerouter: {_status_line(_shown(batch))}, {minutes:,.0f} min\033[K", end="", file=sys.stderr)
        time.sleep(poll_s)
    return batch


def _newest(verbs: BatchVerbs) -> str:
    known = verbs.known()
    if not known:
        raise ConfigError("no batch is known here", where="state folder", next_step="prerouter batch submit FILE")
    return known[0]


def _moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """The next time that a clock on the wall shows `text`. Raises ConfigError."""
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            clock = datetime.datetime.strptime(text, form).time()
        except ValueError:
            continue
        day = now.date() if clock > now.time() else now.date() + datetime.timedelta(days=1)
        return datetime.datetime.combine(day, clock)
    raise ConfigError(f"{text!r} is no time of day", where="--at", next_step="such as --at 02:00")


def _wait_until(at: datetime.datetime) -> None:
    """Until the clock shows `at`: a machine that slept meanwhile is not late."""
    terminal, told = sys.stderr.isatty(), float("-inf")
    while (left := (at - datetime.datetime.now()).total_seconds()) > 0:
        if time.monotonic() - told >= (TICK_S if terminal else QUIET_TICK_S):
            told = time.monotonic()
            hours, minutes = divmod(int(left) // 60, 60)
            line = f"prerouter: waiting until {at:%H:%M}: {hours} h {minutes:02} min left; Ctrl-C loses nothing"
            print(f"\r{line}\033[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        time.sleep(min(left, TICK_S))
    if terminal:
        print(file=sys.stderr)


def _shown(batch: Any) -> dict[str, Any]:
    """The batch as a JSON object."""
    told: dict[str, Any] = batch.to_dict(mode="json")
    return told


def _status_line(told: dict[str, Any]) -> str:
    counts = {name: told["request_counts"][name] for name in _COUNTS}
    words = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    return f"{told['id']}  {told['processing_status']}  {sum(counts.values()):,} items: {words}"


def _words(found: Estimate) -> str:
    models = ", ".join(f"{name} {n:,}" for name, n in found.by_model.most_common())
    copies = found.items - found.refused - found.different
    parts = [f"{found.items:,} items", f"{models or 'none to be sent'}"]
    parts += [
        f"{copies:,} equal to another" if copies else "",
        f"{found.undecided:,} not decided" * bool(found.undecided),
    ]
    parts += [f"{found.refused:,} that cannot be sent" if found.refused else ""]
    dollars = f"about ${found.usd_expected:,.4f}, at most ${found.usd_at_most:,.4f}"
    asked = f", deciding ${found.classifier_usd:,.6f}" if found.classifier_usd else ""
    return f"{'; '.join(filter(None, parts))}: {dollars}{asked}"
