"""A review under way: which rows of a labelled file are looked at, in which order, and what was said about them."""

from __future__ import annotations

import datetime
import hashlib
import heapq
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from prerouter.agreement import Agreement, agreement
from prerouter.errors import ConfigError
from prerouter.examples import body_of, read_bodies
from prerouter.intake import LABEL_KEYS, dumped
from prerouter.labelreport import label_of, request_of
from prerouter.progress import Progress
from prerouter.records import Request
from prerouter.reviewed import Saved, key_of
from prerouter.taxonomy import Taxonomy
from prerouter.text import render

REVIEWER = "human"  # `labelled_by` of reviewed rows


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows are looked at: `sample` of them at random, the same for the same seed; or those most in doubt.

    queue: those of the queue of requests for people, in the order in which they came. Only a random choice shows how
    often the labeller is right. A larger sample begins with the smaller one.
    """

    sample: int
    doubtful: bool = False
    seed: int = 0
    queue: bool = False

    def place(self, key: str, row: Mapping[str, Any]) -> tuple[float, str]:
        """Where a row comes: the first `sample` are looked at."""
        if self.queue:
            came = row.get("queued_at")
            return (float(came) if isinstance(came, int | float) else 0.0), key
        drawn = hashlib.sha256(f"{self.seed}:{key}".encode()).hexdigest()
        confidence = row.get("confidence")
        sure = float(confidence) if isinstance(confidence, int | float) else 1.0
        return (sure if self.doubtful and sure == sure else 0.0), drawn

    @property
    def name(self) -> str:
        """How it is called in reviewed rows."""
        return "queue" if self.queue else "doubtful" if self.doubtful else "random"


@dataclass(frozen=True, slots=True)
class Item:
    """A row to look at. key: the same for the same request. label: the one that it has."""

    key: str
    row: Mapping[str, Any]
    label: str

    @property
    def request(self) -> Request:
        """As its labeller saw it."""
        return render(body_of(self.row))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the review is. total: rows chosen. others: reviewed before, and not among the chosen ones.

    agreement: of labeller and reviewer, on the rows that were chosen at random.
    """

    total: int
    done: int
    corrected: int
    others: int
    agreement: Agreement

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = {"total": self.total, "done": self.done, "corrected": self.corrected, "others": self.others}
        return own | {"left": self.total - self.done, "agreement": self.agreement.to_json()}


class Review:
    """A review of `file` under way, which no other process can have open. Thread-safe. Close it, or use `with`.

    Raises DataError for a row without a label of the taxonomy, ConfigError when there is nothing to look at.
    """

    def __init__(self, file: str | Path, output: str | Path, taxonomy: Taxonomy, choice: Choice) -> None:
        self.taxonomy, self.choice = taxonomy, choice
        self._lock = threading.RLock()
        self._saved = Saved(Path(output))
        try:
            self._items = {item.key: item for item in _chosen(file, taxonomy, choice)}
            if not self._items:
                raise ConfigError("there is no row to look at", where=str(file), next_step="label some requests first")
        except BaseException:
            self._saved.close()
            raise
        self._queue = deque(item for item in self._items.values() if item.key not in self._saved)

    def __enter__(self) -> Review:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let others open it."""
        with self._lock:
            self._saved.close()

    @property
    def current(self) -> Item | None:
        """The row to look at; None when all chosen ones were looked at."""
        with self._lock:
            return self._queue[0] if self._queue else None

    def answer(self, key: str, label: str) -> bool:
        """Save the reviewer's label for the current row. False, and nothing done, when `key` is another row's.

        Raises ConfigError for an unknown label, OSError when it cannot be saved.
        """
        with self._lock:
            item, name = self.current, self.taxonomy.label(label).name
            if item is None or item.key != key:
                return False
            self._saved.append(key, _reviewed(item, name, self.choice))
            self._queue.popleft()
            return True

    def skip(self, key: str) -> bool:
        """Look at the current row last; False when `key` is another row's."""
        with self._lock:
            if self.current is None or self.current.key != key:
                return False
            self._queue.rotate(-1)
            return True

    @property
    def can_undo(self) -> bool:
        """Whether the answer saved last is about one of the chosen rows."""
        with self._lock:
            return self._saved.last in self._items

    def undo(self) -> bool:
        """Take the answer saved last back and look at its row again; False when there is none."""
        with self._lock:
            if not self.can_undo:
                return False
            self._queue.appendleft(self._items[self._saved.take_back()])
            return True

    def standing(self) -> Standing:
        """How far the review is."""
        with self._lock:
            answers = self._saved.answers
            mine = [answers[key] for key in self._items if key in answers]
            drawn = [(a.before, a.label) for a in answers.values() if a.chosen == "random" and a.before]
            corrected = sum(a.before != a.label for a in mine)
            return Standing(len(self._items), len(mine), corrected, len(answers) - len(mine), agreement(drawn))


def _chosen(file: str | Path, taxonomy: Taxonomy, choice: Choice) -> Iterator[Item]:
    """The items that `choice` puts first, each request once, in its order; memory holds no more than these."""
    kept: list[tuple[_Last, Item]] = []  # the last on top, so that it makes room
    keys: set[str] = set()
    with Progress("reading") as progress:
        for line, row in read_bodies(file):
            item = Item(key_of(row), row, label_of(row, taxonomy, file, line))
            place = _Last(choice.place(item.key, row))
            if item.key not in keys and (len(kept) < choice.sample or kept[0][0] < place):
                request_of(row, file, line)  # refused now, not when it is its turn
                dumped(row, file, line)
                keys.add(item.key)
                heapq.heappush(kept, (place, item))
                if len(kept) > choice.sample:
                    keys.discard(heapq.heappop(kept)[1].key)
            progress.advance(1)
    return (item for _, item in sorted(kept, key=lambda k: k[0], reverse=True))


@dataclass(frozen=True, slots=True)
class _Last:
    """Orders places the other way round: a heap has its smallest on top."""

    place: tuple[float, str]

    def __lt__(self, other: _Last) -> bool:
        return self.place > other.place


def _reviewed(item: Item, label: str, choice: Choice) -> dict[str, Any]:
    """The row as a person labelled it; what it was labelled before goes under "reviewed"."""
    row = {key: value for key, value in item.row.items() if key not in LABEL_KEYS and key != "reviewed"}
    before = {key: item.row[key] for key in LABEL_KEYS if item.row.get(key) is not None} | {"label": item.label}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = {"label": label, "labelled_by": REVIEWER, "labelled_at": now}
    return row | own | {"reviewed": before | {"chosen": choice.name}}
