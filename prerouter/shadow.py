"""`prerouter shadow`: would the routed model have answered as well? Asked about a sample of a usage log.

Of each sampled request whose route differs, the routed model answers too and a judge compares both answers, blind and
in random order. Every pair is appended to the file of pairs at once: the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from prerouter.comparing import Answer, Comparer, Question
from prerouter.errors import ConfigError, DataError, InvalidRequest
from prerouter.files import expanded
from prerouter.judge import Judge
from prerouter.labelrun import in_background
from prerouter.pairing import Pairing, drawn, trim
from prerouter.pairs import Pair, read_pairs, summary
from prerouter.progress import Progress
from prerouter.purse import Purse, guessed_tokens
from prerouter.records import Decision, Usage
from prerouter.reportview import to_text
from prerouter.router import PreRouter
from prerouter.savings import Answered, tier_name
from prerouter.sdk import Sdk, has_key
from prerouter.settings import Settings, load_settings
from prerouter.shadowview import sections
from prerouter.tiers import cost
from prerouter.usagelog import UsageRow, read_usage

RULING_TOKENS = 300  # of the judge's answer, what it thinks included: for the estimate
CALLS = 8  # of the classifier at a time
DEADLINE_S = 30.0  # of each


@dataclass(slots=True)
class Shadow:
    """What a run came to. sampled: rows that were looked at. same: of these, those that keep their tier.

    pairs: all in the file, those of earlier runs included. made: by this run. left_out: {why: rows}, see
    `comparing.Made`. usd: paid by this run. estimate: US dollars that it may cost, when only that was asked for.
    """

    sampled: int = 0
    same: int = 0
    pairs: list[Pair] = field(default_factory=list)
    made: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    usd: Decimal = Decimal(0)
    estimate: Decimal | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = {"sampled": self.sampled, "same": self.same, "made": self.made, "left_out": dict(self.left_out)}
        usd = {"usd": round(float(self.usd), 6), "estimate_usd": None}
        if self.estimate is not None:
            usd["estimate_usd"] = round(float(self.estimate), 6)
        return own | usd | {"pairs": summary(self.pairs)}


def run_shadow(options: argparse.Namespace) -> int:
    """Exit code of `prerouter shadow`."""
    if not (options.output or options.estimate):
        raise ConfigError("nowhere to put the pairs", where="shadow", next_step="-o pairs.jsonl, or --estimate")
    with PreRouter.load(options.model, settings=patient(load_settings())) as router:
        found = _shadowed(router, options)
    print(json.dumps(found.to_json(), ensure_ascii=False) if options.json else to_text(*sections(found.to_json())))
    for why, n in found.left_out.most_common():
        print(f"prerouter: {n:,} requests were not compared: {why}", file=sys.stderr)
    return 1 if found.left_out["capped"] or found.left_out["failed"] else 0


def patient(settings: Settings) -> Settings:
    """Settings for asking the classifier where nobody waits."""
    asking = replace(settings.classifier, deadline_s=max(DEADLINE_S, settings.classifier.deadline_s))
    return replace(settings, classifier=asking)


def _shadowed(router: PreRouter, options: argparse.Namespace) -> Shadow:
    judge = Judge.load(router.tiers.model(options.judge or router.tiers.first_model(router.tiers.tiers[-1].name)))
    if not (options.estimate or has_key()):
        step = "set ANTHROPIC_API_KEY, or look at the cost first with --estimate"
        raise ConfigError("comparing needs a key", where="environment", next_step=step)
    rows = sample(options.file, options.sample, options.seed, router, skip_bad=options.skip_bad)
    output = expanded(options.output) if options.output else None
    found = Shadow(sampled=len(rows))
    found.pairs = list(read_pairs(output)) if output and output.exists() else []
    local_only = options.local_only or options.estimate
    all_rows = options.estimate and not options.local_only
    questions = _questions(router, options.file, rows, found, local_only=local_only, all_rows=all_rows)
    if options.estimate:
        found.estimate = sum((_price(router, judge, row, q) for row, q in questions), Decimal(0))
        return found
    assert output is not None
    cap = None if options.max_usd is None else Decimal(str(options.max_usd))
    purse, sdk = Purse(cap, Decimal(0)), Sdk(None, None)
    comparer = Comparer(sdk, judge, router.tiers, purse)
    trim(output)
    with open(output, "a", encoding="utf-8") as out, Progress("comparing", total=max(1, len(questions))) as progress:
        run = Pairing(comparer.compare, out, progress, concurrency=options.concurrency)
        in_background(partial(run.all, [question for _, question in questions], sdk.close))
    found.pairs += run.pairs
    found.made, found.usd = len(run.pairs), purse.spent
    found.left_out += run.left_out
    return found


def sample(file: str, n: int, seed: int, router: PreRouter, *, skip_bad: bool) -> list[UsageRow]:
    """A uniform sample of the rows that can be compared: with a whole body, an answer, its usage and a known model.

    In the order of the file; the same rows for the same seed. Raises DataError.
    """
    found = drawn(_rows(file, router, skip_bad), n, seed)
    if not found:
        step = "log the whole body (`messages`), the answer's `content`, `model` and `usage`"
        raise DataError("no row can be compared", file=file, next_step=step)
    return found


def _rows(file: str, router: PreRouter, skip_bad: bool) -> Iterator[tuple[int, UsageRow]]:
    for row in read_usage(file):
        if isinstance(row, UsageRow):
            if _comparable(row, router):
                yield row.line, row
        elif not skip_bad:
            raise row


def _comparable(row: UsageRow, router: PreRouter) -> bool:
    if not (row.params and row.content and row.usage):
        return False
    if row.stop_reason not in (None, "end_turn", "stop_sequence", "tool_use"):
        return False  # cut or refused: no answer to compare with
    try:
        router.tiers.model(row.model)
    except ConfigError:
        return False
    return True


def _questions(
    router: PreRouter, file: str, rows: Sequence[UsageRow], found: Shadow, *, local_only: bool, all_rows: bool
) -> list[tuple[UsageRow, Question]]:
    """What is to be compared. all_rows: also what nobody decided, at the default label; for the estimate."""
    done, out = {(pair.id, pair.routed) for pair in found.pairs}, []
    for row, decision in zip(rows, _decisions(router, rows, local_only), strict=True):
        model = router.tiers.model(row.model)
        name = f"{Path(file).name}:{row.id}"
        if decision is None or (decision.decided_by == "default" and not all_rows):
            found.left_out["undecided"] += 1
        elif decision.model is None or decision.tier == tier_name(router.tiers, model):
            found.same += 1
        elif (name, decision.model) not in done:
            answer = Answer(model.id, row.content, float(_answered(router, row).at(model)))
            out.append((row, Question(name, decision.label, row.params, answer, decision.model)))
    return out


def _decisions(router: PreRouter, rows: Sequence[UsageRow], local_only: bool) -> list[Decision | None]:
    """What the router decides about each; None for an illegal body."""
    with Progress("routing", total=len(rows)) as progress, ThreadPoolExecutor(CALLS) as pool:

        def decided(row: UsageRow) -> Decision | None:
            progress.advance(1)
            try:
                return router.decide(row.body, tags=row.tags, local_only=local_only)
            except InvalidRequest:
                return None

        return list(pool.map(decided, rows))


def _answered(router: PreRouter, row: UsageRow) -> Answered:
    return Answered(router.tiers.model(row.model), row.usage or Usage(), row.batch, row.us, row.fast)


def _price(router: PreRouter, judge: Judge, row: UsageRow, question: Question) -> Decimal:
    """US dollars that a comparison may cost: as many tokens again on the other model, and a ruling on both."""
    other = router.tiers.model(question.other)
    said = len(json.dumps(row.params, default=str)) + 2 * len(json.dumps(row.content, default=str)) + len(judge.system)
    ruling = Usage(round(guessed_tokens(judge.model, said)), RULING_TOKENS)
    full = Answered(router.tiers.model(row.model), row.usage or Usage()).at(other)
    return full + cost(judge.model, ruling)
