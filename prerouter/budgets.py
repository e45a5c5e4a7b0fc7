"""Budgets per day and tag: warn, send to a weaker tier, or refuse.

A day is a day in UTC. Processes of one workspace share its budgets: each keeps its own sums in a file of the state
folder, written and read by a background thread, so a restart or a second worker does not start from nothing. Nothing
of this happens on a request's path, where a budget is a comparison. What is on its way when a budget runs out is still
answered: the limit is passed by that, and by what other processes spent within SYNC_S seconds.
A process that is killed takes what it spent in its last SYNC_S seconds with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from prerouter.background import in_thread
from prerouter.dispatchrecords import Account
from prerouter.errors import BudgetExceeded, ConfigError
from prerouter.files import write_whole
from prerouter.forks import new_lock
from prerouter.sections import Budget
from prerouter.settings import Settings
from prerouter.tiers import TierTable

SYNC_S = 2.0  # between two looks at what other processes spent
HOOK_S = 10.0  # for a webhook to answer
DAY_S = 86_400
_log = logging.getLogger("prerouter.budgets")
_FOLDER = "budgets"


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """What the budgets say of a request. max_tier: not above this tier; by: the budget that says so."""

    max_tier: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget today. spent_usd: by all processes of the workspace; requests: degraded and refused by this one."""

    name: str
    usd: Decimal
    spent_usd: Decimal
    action: str
    warned: bool
    degraded: int
    refused: int

    @property
    def exhausted(self) -> bool:
        """Whether its action is taken."""
        return self.spent_usd >= self.usd

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON object."""
        dollars = {"usd": float(self.usd), "spent_usd": float(self.spent_usd)}
        return {k: getattr(self, k) for k in self.__slots__} | dollars | {"exhausted": self.exhausted}


@dataclass(slots=True)
class _Pot:
    """One budget's sums of the day: own is what this process spent, others what it read of other processes."""

    budget: Budget
    limit: Decimal
    own: Decimal = Decimal(0)
    others: Decimal = Decimal(0)
    told: set[str] = field(default_factory=set)  # what was already warned of today
    degraded: int = 0
    refused: int = 0

    @property
    def spent(self) -> Decimal:
        return self.own + self.others

    def begin_day(self) -> None:
        self.own = self.others = Decimal(0)
        self.told, self.degraded, self.refused = set(), 0, 0


class Budgets:
    """All budgets of the settings. Thread-safe, safe after fork; the constructor touches no file and starts nothing.

    clock: UTC seconds since 1970. Raises ConfigError for a budget that says nothing sensible.
    """

    def __init__(self, settings: Settings, table: TierTable, *, clock: Callable[[], float] = time.time) -> None:
        self._pots = [_checked(budget, table) for budget in settings.budgets]
        names = [pot.budget.name for pot in self._pots]
        if len(set(names)) < len(names):
            raise ConfigError("two budgets have the same name", where="budgets", next_step="rename one of them")
        self._ranks = {tier.name: table.rank(tier.name) for tier in table.tiers}
        self._lowest = table.tiers[0].name
        self._folder, self._clock = settings.state_dir / _FOLDER, clock
        self._lock, self._day = new_lock(self), int(clock() // DAY_S)
        self._sync = _Sync(self)

    def before(self, tags: Mapping[str, str]) -> BudgetVerdict:
        """What a request with these tags may use. Raises BudgetExceeded where a budget that refuses is used up."""
        if not self._pots:
            return BudgetVerdict()
        self._sync.wake()
        with self._lock:
            self._turn_page()
            used_up = [pot for pot in self._pots if _matches(pot.budget, tags) and pot.spent >= pot.limit]
            for pot in used_up:
                if pot.budget.action == "refuse":
                    pot.refused += 1
                    raise _refusal(pot)
            return self._degraded([pot for pot in used_up if pot.budget.action == "degrade"])

    def spent(self, account: Account) -> None:
        """Count what a request cost, however it ended; warn, off the path, of what is used up by it."""
        usd = account.routing.cost_usd if account.routing else Decimal(0)
        if not self._pots or not usd:
            return
        with self._lock:
            self._turn_page()
            for pot in self._pots:
                if _matches(pot.budget, account.tags):
                    pot.own += usd
        self._sync.wake(dirty=True)

    def states(self) -> tuple[BudgetState, ...]:
        """Every budget as it stands: the figures for a metrics page."""
        with self._lock:
            self._turn_page()
            return tuple(
                BudgetState(
                    name=pot.budget.name,
                    usd=pot.limit,
                    spent_usd=pot.spent,
                    action=pot.budget.action,
                    warned=bool(pot.told),
                    degraded=pot.degraded,
                    refused=pot.refused,
                )
                for pot in self._pots
            )

    def close(self) -> None:
        """Write what was spent; nothing else is needed at the end of a process."""
        self._sync.once()

    def forked(self) -> None:
        """Begin anew in a child: what its parent spent stands in the parent's file."""
        with self._lock:
            for pot in self._pots:
                pot.begin_day()

    def _degraded(self, pots: list[_Pot]) -> BudgetVerdict:
        if not pots:
            return BudgetVerdict()
        strictest = min(pots, key=lambda pot: self._ranks[pot.budget.max_tier or self._lowest])
        strictest.degraded += 1
        return BudgetVerdict(strictest.budget.max_tier or self._lowest, strictest.budget.name)

    def _turn_page(self) -> None:
        day = int(self._clock() // DAY_S)
        if day != self._day:
            self._day = day
            for pot in self._pots:
                pot.begin_day()

    def exchange(self, own: str) -> None:
        """Write this process's sums to the file `own`, read the others', warn. Raises OSError."""
        with self._lock:
            self._turn_page()
            day, sums = self._day, {pot.budget.name: str(pot.own) for pot in self._pots if pot.own}
        folder = self._folder / time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
        if sums:
            write_whole(folder / own, json.dumps(sums).encode())
        others = _others(folder, own)
        with self._lock:
            if day != self._day:
                return
            for pot in self._pots:
                pot.others = sum((_amount(found, pot.budget.name) for found in others), Decimal(0))
            news = [(pot, what) for pot in self._pots for what in _news(pot)]
        for pot, what in news:
            if _first(folder, pot, what):
                _tell(pot, what)
        _forget(self._folder, keep=folder.name)


class _Sync:
    """The background thread: it starts at the first request, and again in a forked child; it ends with its Budgets."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = weakref.ref(budgets)
        self._event, self._lock = threading.Event(), new_lock(self)
        self._pid, self._name = 0, ""
        self._failed = False

    def wake(self, *, dirty: bool = False) -> None:
        """Have the thread run; `dirty`: soon, for there is something to write or to warn of."""
        if self._pid != os.getpid():
            self._start()
        if dirty:
            self._event.set()

    def once(self) -> bool:
        """Exchange the sums; False when there is nobody left to do it for."""
        budgets = self._budgets()
        if budgets is None:
            return False
        if self._pid != os.getpid():
            return True  # nothing was spent by this process
        try:
            budgets.exchange(self._name)
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                _log.warning("budgets cannot be shared: %s; this process counts by itself", error)
            self._failed = True
        return True

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            budgets = self._budgets()
            if budgets and self._pid:
                budgets.forked()
            self._pid, self._name = os.getpid(), f"{os.getpid()}-{os.urandom(4).hex()}.json"
        self.once()  # what was spent today before this process began is known to its first request
        try:
            threading.Thread(target=self._serve, name="prerouter-budgets", daemon=True).start()
        except RuntimeError:
            _log.warning("no thread to be had for the budgets: this process counts by itself")

    def _serve(self) -> None:
        while True:
            self._event.wait(SYNC_S)
            self._event.clear()
            if not self.once():
                return
            time.sleep(SYNC_S / 10)  # at most so often, however many requests end


def _checked(budget: Budget, table: TierTable) -> _Pot:
    where = f"budgets, {budget.name!r}"
    if not 0 < budget.warn_at <= 1:
        raise ConfigError(f"warn_at is {budget.warn_at}", where=where, next_step="choose a share above 0, at most 1")
    if budget.max_tier is not None:
        table.rank(budget.max_tier)
    if budget.webhook and not budget.webhook.startswith(("https://", "http://")):
        raise ConfigError("webhook is no http or https URL", where=where, next_step="such as https://HOST/PATH")
    return _Pot(budget, budget.usd)


def _matches(budget: Budget, tags: Mapping[str, str]) -> bool:
    return all(tags.get(key) == value for key, value in budget.tags.items())


def _refusal(pot: _Pot) -> BudgetExceeded:
    what = f"the budget {pot.budget.name!r} of ${pot.limit} a day is used up"
    return BudgetExceeded(
        what, where=f"${pot.spent:.6f} spent", next_step="raise its usd, or wait for the next day, UTC"
    )


def _news(pot: _Pot) -> list[str]:
    """What has to be told once a day: "used up", or "nearly" before."""
    reached = {"used up": pot.spent >= pot.limit, "nearly": pot.spent >= pot.limit * Decimal(str(pot.budget.warn_at))}
    news = [what for what, is_so in reached.items() if is_so and what not in pot.told][:1]
    pot.told |= {what for what, is_so in reached.items() if is_so}
    return news


def _first(folder: Path, pot: _Pot, what: str) -> bool:
    """Whether no other process has told of it today."""
    name = hashlib.sha256(f"{pot.budget.name}\n{what}".encode("utf-8", "replace")).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.told").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _tell(pot: _Pot, what: str) -> None:
    state = {"budget": pot.budget.name, "event": what, "usd": float(pot.limit), "spent_usd": float(pot.spent)}
    then = {"warn": "nothing is changed", "refuse": "requests are refused", "degrade": "requests go to a weaker tier"}
    action = then[pot.budget.action] if what == "used up" else f"at ${pot.limit}: {then[pot.budget.action]}"
    _log.warning("budget %s: %s, $%.6f of $%s; %s", pot.budget.name, what, pot.spent, pot.limit, action)
    if pot.budget.webhook:
        in_thread(_call, pot.budget, state | {"tags": dict(pot.budget.tags), "action": pot.budget.action})


def _call(budget: Budget, event: Mapping[str, Any]) -> None:
    from prerouter.webhook import post

    failed = post(str(budget.webhook), event, HOOK_S)
    if failed:
        _log.warning("budget %s: the webhook was not told: %s", budget.name, failed)


def _others(folder: Path, own: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if file.name != own:
            try:
                found.append(json.loads(file.read_text("utf-8")))
            except (OSError, ValueError):
                continue  # gone, or not ours
    return [sums for sums in found if isinstance(sums, dict)]


def _amount(sums: Mapping[str, Any], name: str) -> Decimal:
    try:
        amount = Decimal(str(sums.get(name, 0)))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() and amount > 0 else Decimal(0)


def _forget(folder: Path, keep: str) -> None:
    """Remove other days."""
    for day in folder.iterdir() if folder.is_dir() else ():
        if day.name != keep and day.is_dir():
            for file in (*day.glob("*.json"), *day.glob("*.told")):
                file.unlink(missing_ok=True)
            try:
                day.rmdir()
            except OSError:
                continue  # something else lies in it
