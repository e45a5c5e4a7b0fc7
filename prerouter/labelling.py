"""Historical requests -> labelled examples: `prerouter.label`, and `prerouter label`.

Three steps: the rows go into the journal (`intake`); what they ask is asked (`labelrun`), live or in batches, and every
answer is on disk before it counts; the output appears whole (`labelout`), and the journal goes. A run that was
interrupted, by whatever, is finished by the same command; nothing that was answered is asked again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from prerouter.ballot import Ballot
from prerouter.errors import ConfigError
from prerouter.estimate import Estimate
from prerouter.estimate import estimate as _estimated
from prerouter.files import expanded
from prerouter.intake import Source, index, take_over
from prerouter.journal import Journal
from prerouter.labelout import Tally, count, errors_path, write
from prerouter.labelrun import Plan, ask, closing, in_background, need_key, open_questions
from prerouter.sdk import check_client, has_key
from prerouter.sdkbatches import BatchSdk
from prerouter.sections import LabelSettings
from prerouter.settings import Settings, load_settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

MAX_VOTES = 15
CERTIFY_VOTES = 3


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What a run came to. Counts are rows; money and tokens are all that was spent for this output, earlier runs too.

    skipped_duplicates: rows that share another row's answer. distribution: {label: rows}.
    split: requests whose votes differ. lost_usd: at most so much more, for calls whose bill never came.
    capped: some rows were left because of `max_usd`. nothing_to_do: all had been labelled before.
    """

    rows: int
    labelled: int
    failed: int
    skipped_duplicates: int
    cost_usd: float
    input_tokens: int
    output_tokens: int
    distribution: Mapping[str, int]
    seconds: float
    output: Path
    split: int = 0
    lost_usd: float = 0.0
    capped: bool = False
    nothing_to_do: bool = False

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        names = LabelResult.__slots__
        return {name: getattr(self, name) for name in names} | {
            "distribution": dict(self.distribution),
            "output": str(self.output),
        }


def label(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    batch: bool = False,
    votes: int | None = None,
    taxonomy: str | Path | Taxonomy | None = None,
    sample: int | None = None,
    stratify: bool = False,
    certify: bool = False,
    seed: int = 0,
    max_usd: float | None = None,
    rpm: int | None = None,
    concurrency: int | None = None,
    poll_seconds: float | None = None,
    redact: bool = True,
    labeller: str | None = None,
    escalate_to: str | None = None,
    client: Any = None,
    settings: Settings | None = None,
) -> LabelResult:
    """Label the requests of JSONL or Parquet files or a routing log with a Claude model, into the JSONL file `output`.

    batch: through Message Batches: half the price, within hours. votes: times that each request is asked about (1; 3
    with `certify` or `escalate_to`). sample: a uniform sample of so many rows; with `stratify` as many of each source
    and length, weighted back. certify: a sample to certify on: uniform, three votes. max_usd: spend less than that,
    earlier runs of the same output included. redact: take personal data and keys out of what is sent and stored.
    escalate_to: the model that settles split votes. client: an anthropic client; None: from the environment.

    The same call again finishes what was left. Rows without an answer are in OUTPUT.errors.jsonl.
    Raises ConfigError, DataError (file, line), and UpstreamError when Claude stops answering; the work is kept.
    """
    settings = settings or load_settings()
    own = _overridden(settings, labeller, rpm, concurrency, poll_seconds)
    source = Source(_paths(inputs), sample, stratify, seed, redact)
    usual = CERTIFY_VOTES if certify or escalate_to else 1
    ballot = _ballot(settings, own, taxonomy, usual if votes is None else votes, escalate_to)
    cap = None if max_usd is None else Decimal(str(max_usd))
    _check(source, certify, cap, client)
    return _run(Plan(source, _output(output, source), ballot, batch, cap, own, client))


def estimate(
    inputs: str | Path | Sequence[str | Path],
    *,
    votes: int = 1,
    taxonomy: str | Path | Taxonomy | None = None,
    sample: int | None = None,
    stratify: bool = False,
    seed: int = 0,
    redact: bool = True,
    rpm: int | None = None,
    labeller: str | None = None,
    client: Any = None,
    settings: Settings | None = None,
) -> Estimate:
    """What `label` would cost. With a key the API counts the tokens of a few requests, which costs nothing."""
    settings = settings or load_settings()
    own = _overridden(settings, labeller, rpm, None, None)
    source = Source(_paths(inputs), sample, stratify, seed, redact)
    ballot = _ballot(settings, own, taxonomy, votes, None)
    _check(source, False, None, client)
    sdk = BatchSdk(ballot.prompts[0], client) if has_key(client) else None
    with tempfile.TemporaryDirectory(prefix="prerouter-") as folder, Journal(Path(folder) / "journal") as journal:
        index(journal, source)
        return in_background(partial(closing, sdk, partial(_estimated, journal, ballot, sdk, own.rpm)))


def _paths(inputs: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    return (str(inputs),) if isinstance(inputs, str | Path) else tuple(map(str, inputs))


def _overridden(
    settings: Settings, model: str | None, rpm: int | None, concurrency: int | None, poll_s: float | None
) -> LabelSettings:
    own = settings.label
    return replace(
        own,
        model=model or own.model or settings.classifier.model,
        rpm=rpm or own.rpm,
        concurrency=concurrency or own.concurrency,
        poll_s=poll_s or own.poll_s,
    )


def _ballot(
    settings: Settings, own: LabelSettings, taxonomy: str | Path | Taxonomy | None, votes: int, escalate_to: str | None
) -> Ballot:
    if not isinstance(taxonomy, Taxonomy):
        named = taxonomy or (settings.taxonomy and settings.resolve(settings.taxonomy))
        taxonomy = Taxonomy.load(expanded(named) if named else None)
    if not taxonomy.askable:
        what = f"{len(taxonomy.labels)} labels are more than a model can choose from"
        raise ConfigError(what, where=taxonomy.where, next_step="merge labels")
    if not 1 <= votes <= MAX_VOTES:
        raise ConfigError(f"{votes} votes", where="--votes", next_step=f"choose a number from 1 to {MAX_VOTES}")
    if escalate_to and votes == 1:
        raise ConfigError("one vote cannot be split", where="--escalate-to", next_step="add --votes 3")
    tiers = TierTable.load(settings.tiers)
    second = tiers.model(escalate_to) if escalate_to else None
    return Ballot.of(taxonomy, tiers.model(str(own.model)), votes, second)


def _check(source: Source, certify: bool, cap: Decimal | None, client: Any) -> None:
    check_client(client)
    if not source.paths:
        raise ConfigError("no input", where="label", next_step="name a JSONL or Parquet file, a routing log, or -")
    if source.stratify and not source.sample:
        raise ConfigError("--stratify goes with --sample", where="label", next_step="add --sample N")
    if certify and source.stratify:
        step = "leave --stratify out: a certificate needs a uniform sample of the traffic"
        raise ConfigError("--certify and --stratify exclude each other", where="label", next_step=step)
    if cap is not None and not 0 < cap < Decimal("Infinity"):
        raise ConfigError(f"--max-usd is {cap}", where="label", next_step="give US dollars above 0, such as 5")


def _output(output: str | Path, source: Source) -> Path:
    path = expanded(output)
    path = path.resolve()
    if str(output) == "-" or (path.exists() and not path.is_file()):
        what = "the output must be a file: its journal stands beside it"
        raise ConfigError(what, where=str(output), next_step="-o labelled.jsonl")
    if any(name != "-" and expanded(name).resolve() in (path, errors_path(path)) for name in source.paths):
        raise ConfigError("the output would overwrite what is read", where=str(path), next_step="name another file")
    return path


def _run(plan: Plan) -> LabelResult:
    started = time.monotonic()
    if not plan.journal.exists() and not plan.output.exists():
        plan.source.fingerprint()  # a missing file is named first
        need_key(plan)  # before millions of rows are read
    with Journal(plan.journal) as journal:
        index(journal, plan.source)
        if plan.output.exists() and not journal.get("taken"):
            take_over(journal, plan.output, plan.fits, plan.source.redact)
        todo = open_questions(plan, journal)
        if not todo and plan.output.exists() and (journal.is_new or journal.get("written")):
            return _ended(plan, journal, count(journal, plan.ballot), started, nothing_to_do=True)
        capped = todo and ask(plan, journal)
        unasked = f"not asked: the cap of ${plan.cap} is reached" if capped else "not asked"
        tally = write(journal, plan.ballot, plan.output, unasked)
        with journal.writing():
            journal.set(written="yes", taken="yes")
        return _ended(plan, journal, tally, started, capped=capped)


def _ended(
    plan: Plan, journal: Journal, tally: Tally, started: float, capped: bool = False, nothing_to_do: bool = False
) -> LabelResult:
    (rows, requests), spent = journal.count(), journal.spent()
    result = LabelResult(
        rows=rows,
        labelled=tally.labelled,
        failed=tally.failed,
        skipped_duplicates=rows - requests,
        cost_usd=float(round(spent.usd, 9)),
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        distribution={name: tally.distribution[name] for name in plan.ballot.taxonomy.names},
        seconds=round(time.monotonic() - started, 3),
        output=plan.output,
        split=journal.n_split(plan.ballot.id),
        lost_usd=float(round(spent.lost_usd, 9)),
        capped=capped,
        nothing_to_do=nothing_to_do,
    )
    if not tally.failed:
        journal.remove()
    return result
