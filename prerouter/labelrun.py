"""A labelling run's questions, phase by phase: live or in batches, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prerouter.asking import Live, Recorder
from prerouter.background import Background
from prerouter.ballot import Ballot
from prerouter.batches import Batches
from prerouter.errors import ConfigError, UpstreamError
from prerouter.intake import Source
from prerouter.journal import Ask, Journal
from prerouter.pace import Pace
from prerouter.progress import Progress
from prerouter.purse import Purse
from prerouter.sdk import has_key
from prerouter.sdkbatches import BatchSdk
from prerouter.sections import LabelSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be labelled, by whom, and into which file."""

    source: Source
    output: Path
    ballot: Ballot
    batch: bool
    cap: Decimal | None
    settings: LabelSettings
    client: Any

    @property
    def journal(self) -> Path:
        """Where its journal is."""
        return self.output.with_name(self.output.name + ".journal")

    def phases(self) -> list[tuple[str, int, tuple[str, ...]]]:
        """Prompt, votes, and the prompts whose split or refused answers are asked about again."""
        first = (self.ballot.id, len(self.ballot.prompts), ())
        second = self.ballot.second
        return [first, (second.id, 1, (self.ballot.id,))] if second else [first]

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of an earlier output has what this run would give it."""
        ids = {prompt.id for prompt in (self.ballot.prompts[0], self.ballot.second) if prompt}
        votes = row.get("votes")
        said = sum(n for n in votes.values() if isinstance(n, int)) if isinstance(votes, dict) else 0
        enough = said >= len(self.ballot.prompts) or row.get("prompt_id") != self.ballot.id
        return row.get("prompt_id") in ids and row.get("label") in self.ballot.taxonomy.names and enough


def need_key(plan: Plan) -> None:
    """Raises ConfigError when there is none to ask with."""
    if not has_key(plan.client):
        step = "set ANTHROPIC_API_KEY, or look at the cost first with --estimate"
        raise ConfigError("labelling needs a key", where="environment", next_step=step)


def open_questions(plan: Plan, journal: Journal) -> bool:
    """Whether anything is left to ask, or to read."""
    pending = (journal.pending(prompt, votes, split=split) for prompt, votes, split in plan.phases())
    return bool(journal.batches()) or any(next(asks, None) is not None for asks in pending)


def ask(plan: Plan, journal: Journal) -> bool:
    """Ask what is open; whether some of it was left because of the money. Raises UpstreamError."""
    need_key(plan)
    with journal.writing():
        journal.set(written="")
    spent, votes = journal.spent(), len(plan.ballot.prompts)
    purse = Purse(plan.cap, spent.usd + spent.lost_usd)
    sdk = BatchSdk(plan.ballot.prompts[0], plan.client)
    before = journal.n_answered(plan.ballot.id, votes)
    with Progress("labelling", total=max(1, journal.count()[1] * votes - before)) as progress:
        try:
            return in_background(partial(closing, sdk, partial(_asked, plan, journal, purse, sdk, progress.advance)))
        except UpstreamError as error:
            if journal.n_answered(plan.ballot.id, votes) > before:
                error.exit_code = 1  # part was done
            raise


async def _asked(plan: Plan, journal: Journal, purse: Purse, sdk: BatchSdk, told: Callable[[int], None]) -> bool:
    batches = Batches(sdk, journal, plan.ballot, purse, plan.settings, told)
    await batches.collect()  # of an earlier run: what it sent is not asked about again, live neither
    for prompt, votes, split in plan.phases():
        pending = partial(journal.pending, prompt, votes, split=split)
        if plan.batch:
            await batches.run(pending)
            capped = batches.capped
        else:
            capped = await _live(plan, journal, purse, sdk, told, pending())
        if capped:
            return True
    return False


async def _live(
    plan: Plan, journal: Journal, purse: Purse, sdk: BatchSdk, told: Callable[[int], None], asks: Iterator[Ask]
) -> bool:
    pace = Pace(plan.settings.rpm, plan.settings.concurrency, asyncio.get_running_loop().time())
    recorder = Recorder(journal, told)
    live = Live(sdk, plan.ballot, pace, purse, recorder, plan.settings.attempts)
    await alongside(live.run(asks), recorder.run())
    return live.capped


async def alongside(work: Coroutine[Any, Any, None], service: Coroutine[Any, Any, None]) -> None:
    """Run `work` with `service` beside it, which ends with it; when either fails, so does this."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(service)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:  # the work first: its last answers go to the service
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def closing(sdk: BatchSdk | None, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `make()`; the connections are closed after it."""
    try:
        return await make()
    finally:
        if sdk:
            await sdk.close()


def in_background(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `make()`, run on a thread of its own: the caller may have an event loop. Ctrl-C cancels it."""
    background = Background()
    try:
        return background.run(make).result()
    finally:
        background.stop(_nothing)


async def _nothing() -> None:
    pass
