"""`prerouter evaluate --answers`: do specialists answer better than one prompt? The same requests, judged blind.

Each request is answered once through Dispatch with a taxonomy and once by one model under one system prompt, and a
judge that knows neither says which answer is better. Every trial is appended to the file of pairs at once, without a
word of request or answers: the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from prerouter import text
from prerouter.answersview import sections
from prerouter.comparing import DEFAULT_MAX_TOKENS, Comparer
from prerouter.contest import Contest, Entry
from prerouter.errors import ConfigError, DataError, InvalidRequest
from prerouter.examples import read_bodies
from prerouter.files import expanded
from prerouter.labelrun import in_background
from prerouter.pairing import Pairing, drawn, trim
from prerouter.pairs import read_as
from prerouter.progress import Progress
from prerouter.purse import Purse
from prerouter.reportview import to_text, write_html
from prerouter.roster import Roster
from prerouter.sdk import Sdk, has_key
from prerouter.sending import request_of
from prerouter.settings import load_settings, mode
from prerouter.shadow import patient
from prerouter.taxonomy import Taxonomy
from prerouter.trials import Trial, summary

_MEND = "mend the row or leave it out"


@dataclass(slots=True)
class Answers:
    """What a run came to. sampled: requests that were looked at. made: trials of this run, of all in `trials`.

    left_out: {why: requests}, see `Contest.make`. usd: paid by this run, in US dollars. estimate, most: what it may
    cost, about and at most, when only that was asked for. about: what was compared.
    """

    about: dict[str, Any]
    sampled: int
    trials: list[Trial] = field(default_factory=list)
    made: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    usd: Decimal = Decimal(0)
    estimate: Decimal | None = None
    most: Decimal | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = {"sampled": self.sampled, "made": self.made, "left_out": dict(self.left_out)}
        usd = {"usd": self.usd, "estimate_usd": self.estimate, "at_most_usd": self.most}
        dollars = {name: None if value is None else round(float(value), 6) for name, value in usd.items()}
        return self.about | own | dollars | summary(self.trials)


def run_answers(options: argparse.Namespace) -> int:
    """Exit code of `prerouter evaluate --answers`."""
    _check(options)
    with ExitStack() as stack:
        roster = Roster.load(
            options.taxonomy,
            options.against_prompt,
            patient(load_settings()),
            stack,
            model=options.model,
            against=options.against_model,
            judge=options.judge,
            max_tokens=options.max_tokens or DEFAULT_MAX_TOKENS,
        )
        found = _compared(roster, options)
    told = found.to_json()
    print(json.dumps(told, ensure_ascii=False, allow_nan=False) if options.json else to_text(*sections(told)))
    if options.html:
        write_html(expanded(options.html), *sections(told), sources=[options.answers, options.output or ""])
    for why, n in found.left_out.most_common():
        print(f"prerouter: {n:,} requests were not compared: {_WHY.get(why, why)}", file=sys.stderr)
    return 1 if found.left_out["capped"] or found.left_out["failed"] else 0


_WHY = {"capped": "capped: one more could pass --max-usd", "too_dear": "an answer may cost more than was set aside"}
_WHY |= {"unseen": "the judge sees no images and documents", "human": "handed to a person"}


def _check(options: argparse.Namespace) -> None:
    if not (options.output or options.estimate):
        step = "-o pairs.jsonl, or --estimate"
        raise ConfigError("nowhere to put the pairs", where="evaluate --answers", next_step=step)
    if not (options.estimate or has_key()):
        step = "set ANTHROPIC_API_KEY, or look at the cost first with --estimate"
        raise ConfigError("comparing needs a key", where="environment", next_step=step)
    if mode() != "on":
        step = "unset PREROUTER_MODE for this command"
        raise ConfigError(f"routing is switched to {mode()}", where="PREROUTER_MODE", next_step=step)


def _compared(roster: Roster, options: argparse.Namespace) -> Answers:
    entries = read_entries(options.answers, roster.router.taxonomy, n=options.sample, seed=options.seed)
    found = Answers(_about(roster, options), len(entries))
    output = expanded(options.output) if options.output else None
    found.trials = _earlier(output, roster.id) if output and output.exists() else []
    done = {trial.id for trial in found.trials}
    left = [entry for entry in entries if entry.id not in done]
    if options.estimate:
        found.estimate, found.most = _prices(roster, left)
        return found
    assert output is not None
    _make(roster, left, output, options, found)
    return found


def _make(roster: Roster, entries: Sequence[Entry], output: Path, options: argparse.Namespace, found: Answers) -> None:
    cap = None if options.max_usd is None else Decimal(str(options.max_usd))
    purse, sdk, client = Purse(cap, Decimal(0)), Sdk(None, None), roster.dispatch()
    comparer = Comparer(sdk, roster.judge, roster.router.tiers, purse, replay=roster.to_one_prompt)

    async def close() -> None:
        await sdk.close()
        await client.close()

    trim(output)
    with open(output, "a", encoding="utf-8") as out, Progress("comparing", total=max(1, len(entries))) as progress:
        roster.router.warm()  # importing the SDK is not a part of the first request's latency
        contest = Contest(roster, client, comparer, purse)
        run = Pairing(contest.make, out, progress, concurrency=options.concurrency)
        in_background(partial(run.all, entries, close))
    found.trials += [pair for pair in run.pairs if isinstance(pair, Trial)]
    found.made, found.usd = len(run.pairs), purse.spent + client.report().late_usd
    found.left_out += run.left_out


def _about(roster: Roster, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "taxonomy": roster.router.taxonomy.name,
        "prompt": Path(options.against_prompt).name,
        "against_model": roster.against.id,
        "judge": roster.judge.model.id,
        "contest": roster.id,
    }


def read_entries(file: str, taxonomy: Taxonomy, *, n: int, seed: int) -> list[Entry]:
    """A uniform sample of a file's requests, `text` or a Messages body each; one that stands there twice, once.

    Raises DataError with file and line, for a `label` that the taxonomy does not have too.
    """
    entries = drawn(((line, _entry(row, file, line, taxonomy)) for line, row in read_bodies(file)), n, seed)
    if not entries:
        raise DataError("there is no request in it", file=file, next_step="one JSON object a line")
    return list({entry.id: entry for entry in entries}.values())


def _entry(row: dict[str, Any], file: str, line: int, taxonomy: Taxonomy) -> Entry:
    try:
        request = request_of(row, {}, f"line {line}")
        request = {key: value for key, value in request.items() if key not in ("model", "dispatch_config")}
        text.render(request)
    except InvalidRequest as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        raise DataError(what, file=file, line=line, next_step=error.next_step or _MEND) from error
    given = row.get("label")
    expected = taxonomy.match(given) if isinstance(given, str) else None
    if given is not None and expected is None:
        step = f"one of {', '.join(taxonomy.names)}, or none"
        raise DataError(f"label {given!r} is not in the taxonomy", file=file, line=line, next_step=step)
    name = line if row.get("id") in (None, "") else row["id"]
    if type(name) not in (str, int, float):
        raise DataError("the id is neither a string nor a number", file=file, line=line, next_step=_MEND)
    gist = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Entry(f"{Path(file).name}:{name}:{gist}", request, expected)


def _earlier(output: Path, contest: str) -> list[Trial]:
    """The trials in the file. Raises DataError when they are of another comparison."""

    def checked() -> Iterator[Trial]:
        for trial in read_as(Trial, output):
            if trial.contest != contest:
                what = f"trial {trial.id} is of another taxonomy, prompt, model or judge"
                raise DataError(what, file=output, next_step="name a new file with -o")
            yield trial

    return list(checked())


def _prices(roster: Roster, entries: Sequence[Entry]) -> tuple[Decimal, Decimal]:
    """US dollars that the comparison costs about, and at most."""
    purse = Purse(Decimal(0), Decimal(0))  # it is asked for bounds, which it does not know without a cap
    comparer = Comparer(Sdk(None, None), roster.judge, roster.router.tiers, purse, replay=roster.to_one_prompt)
    about, most = Decimal(0), Decimal(0)
    for entry in entries:
        body, sent = comparer.body(entry.request, roster.against.id), roster.to_specialists(entry.request)
        if not isinstance(body, str):
            about += roster.guessed_usd(sent)
            most += roster.most_usd(sent, purse) + comparer.upper(entry.request, body, roster.most_tokens(sent))
    return about, most
