"""Pairs of answers made many at a time, each appended to a file at once; and the sample that they are made of."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TextIO, TypeVar

from prerouter.comparing import Made
from prerouter.errors import UpstreamError
from prerouter.flights import Fault
from prerouter.pairs import Pair, dumped
from prerouter.progress import Progress

Q = TypeVar("Q")

_STOP = frozenset((401, 402, 403))  # of key or account: no further question can be answered


class Pairing(Generic[Q]):
    """Makes the pairs of one run. pairs: those made so far. left_out: {why: questions}, see `comparing.Made`."""

    def __init__(
        self, make: Callable[[Q], Awaitable[Made]], out: TextIO, progress: Progress, *, concurrency: int
    ) -> None:
        self._make, self._out, self._progress = make, out, progress
        self._concurrency, self._stopped = concurrency, False
        self._fault: Fault | None = None
        self.pairs: list[Pair] = []
        self.left_out: Counter[str] = Counter()

    async def all(self, questions: Sequence[Q], close: Callable[[], Awaitable[None]]) -> None:
        """Make all of them, then `close`. Raises UpstreamError when Claude answered none."""
        rest = iter(questions)
        try:
            await asyncio.gather(*(self._some(rest) for _ in range(self._concurrency)))
        finally:
            await close()
        if self._fault and not self.pairs:
            what, step = f"Claude does not answer: {self._fault.told}", "check key, account and network"
            raise UpstreamError(what, next_step=step, cause=self._fault)

    async def _some(self, rest: Iterator[Q]) -> None:
        for question in rest:
            if self._stopped:
                self.left_out["capped" if self._fault is None else "failed"] += 1
                continue
            self._note(await self._make(question))
            self._progress.advance(1)

    def _note(self, made: Made) -> None:
        if made.pair:
            self.pairs.append(made.pair)
            self._out.write(dumped(made.pair))
            self._out.flush()
            return
        self.left_out[made.why] += 1
        self._fault = made.fault or self._fault
        self._stopped |= made.why == "capped" or bool(made.fault and made.fault.status in _STOP)


def drawn(rows: Iterable[tuple[int, Q]], n: int, seed: int) -> list[Q]:
    """A uniform sample of (line, row), in the order of the lines; the same rows for the same seed."""
    best: list[tuple[int, int, Q]] = []
    for line, row in rows:
        place = -int(hashlib.sha256(f"{seed}:{line}".encode()).hexdigest()[:15], 16)
        (heapq.heappush if len(best) < n else heapq.heappushpop)(best, (place, line, row))
    return [row for _, _, row in sorted(best, key=lambda item: item[1])]


def trim(path: Path) -> None:
    """Take a last line away that a killed run left unfinished."""
    if path.is_file() and not (data := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
