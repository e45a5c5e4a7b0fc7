"""Which rows say the same: exact and near duplicates, and the groups whose rows belong in one part.

Two texts are near duplicates when their sets of 5 consecutive characters, of the text in lower case with single blanks
and every run of digits as one 0, have a Jaccard similarity of at least 0.8. Candidates are found by prefix filtering
(Chaudhuri, Ganti & Kaushik 2006; Wang, Li & Feng 2012): with the grams of all rows in one order, rarest first, two such
sets of n grams share l of their first n / 5 + l. They are then compared exactly. So rows of one template, whose grams
are common, are compared only where what they say in it is alike.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter.progress import Progress

Hashes = NDArray[np.uint64]

GRAM = 5  # characters
ALIKE = 0.8  # Jaccard similarity from which on two texts are duplicates
# Bounds on the work that hostile data makes. Without them a template with many fillings, each pair just below ALIKE,
# takes time that grows with the square of the rows; a pair beyond them is taken for two different texts.
MAX_PREFIX = 256  # grams of a text that are looked up, the rarest first
MAX_POSTINGS = 256  # rows remembered for one gram
MAX_NEEDED = 8  # of those, as many as two near duplicates must share
MAX_COMPARED = 32  # candidates of a row that are compared exactly, those with most rare grams in common first
_AT_ONCE = 256  # texts cut into grams together: at most 6 MB of codes
_COUNTERS = 1 << 22  # in which the rows that hold a gram are counted, by its hash
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found among rows.

    kept: positions of the rows that say something of their own, ascending: the first of all near duplicates with one
    label. groups: of every row, a name shared by near duplicates and conversations, whatever their labels.
    exact, near: positions of the others, by whether their normalised text is the same as that of the row kept.
    contradictions: (position, position of an earlier row) of rows with the same normalised text and another label.
    """

    kept: tuple[int, ...]
    groups: tuple[str, ...]
    exact: tuple[int, ...]
    near: tuple[int, ...]
    contradictions: tuple[tuple[int, int], ...]


def find(texts: Sequence[str], labels: Sequence[Any], conversations: Sequence[str | None]) -> Duplicates:
    """Duplicates among rows, given column by column. Rows with another label stay, in the group of what they resemble.

    Every row is compared with rows that are kept, never with duplicates, so that no chain of small differences joins
    what is unlike.
    """
    finder = _Finder(texts, labels)
    with Progress("looking for duplicates", total=len(texts)) as progress:
        for i, grams in enumerate(_grams(finder.plain)):
            finder.add(i, grams)
            progress.advance(1)
    return finder.result(conversations)


def normal(text: str) -> str:
    """`text` in lower case, with single blanks, every run of digits as one 0."""
    return _DIGITS.sub("0", " ".join(text.lower().split()))


class _Finder:
    """Rows seen so far; the kept ones by their rarest grams."""

    def __init__(self, texts: Sequence[str], labels: Sequence[Any]) -> None:
        self.plain = [normal(text) for text in texts]
        self._labels, self._counts = labels, _gram_counts(self.plain)
        self._parent = list(range(len(texts)))
        self._sizes = np.zeros(len(texts), np.int64)
        self._kept: list[int] = []
        self._postings: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self._shared = np.zeros(len(texts), np.int32)  # grams that each row shares with the one being looked at
        self._by_text: dict[str, list[int]] = defaultdict(list)
        self._exact: list[int] = []
        self._near: list[int] = []
        self._contradictions: list[tuple[int, int]] = []
        self._gram_set = lru_cache(maxsize=4096)(lambda i: frozenset(next(_grams([self.plain[i]])).tolist()))

    def add(self, i: int, grams: Hashes) -> None:
        """Compare row i with the kept ones, and keep it if none of them has its label and its text."""
        same = self._by_text.get(self.plain[i], [])
        if any(self._labels[j] == self._labels[i] for j in same):
            self._join(i, same[0])
            self._exact.append(i)
            return
        grams = np.unique(grams)
        self._sizes[i] = len(grams)
        prefix = self._prefix(grams)
        alike = same or self._alike(i, prefix)
        for j in alike:
            self._join(i, j)
        if any(self._labels[j] == self._labels[i] for j in alike):
            self._near.append(i)
            return
        if same:
            self._contradictions.append((i, same[0]))
        self._keep(i, prefix)

    def result(self, conversations: Sequence[str | None]) -> Duplicates:
        first: dict[str, int] = {}
        for i, name in enumerate(conversations):
            if name is not None:
                self._join(i, first.setdefault(name, i))
        roots = [self._root(i) for i in range(len(self.plain))]
        named = {root: conversations[root] or _name(self.plain[root]) for root in set(roots)}
        groups = tuple(named[root] for root in roots)
        kept, exact, near = map(tuple, (self._kept, self._exact, self._near))
        return Duplicates(kept, groups, exact, near, tuple(self._contradictions))

    def _keep(self, i: int, prefix: Sequence[int]) -> None:
        self._kept.append(i)
        self._by_text[self.plain[i]].append(i)
        for gram in prefix:
            if len(postings := self._postings[gram]) < MAX_POSTINGS:
                postings.append(i)

    def _prefix(self, grams: Hashes) -> list[int]:
        """The grams of a row, rarest first, of which near duplicates share `_needed`; none that only it has."""
        counts = self._counts[grams % _COUNTERS]
        n = len(grams) - math.ceil(ALIKE * len(grams)) + _needed(len(grams))
        first = np.argsort(counts, kind="stable")[:n]  # stable: equal counts stay in the order of the grams
        found: list[int] = grams[first[counts[first] > 1][:MAX_PREFIX]].tolist()
        return found

    def _alike(self, i: int, prefix: Sequence[int]) -> list[int]:
        lists = [np.frombuffer(self._postings[gram], np.int64) for gram in prefix if gram in self._postings]
        if not lists:
            return []
        for rows in lists:
            self._shared[rows] += 1  # no row is twice in one list
        every, size = np.concatenate(lists), int(self._sizes[i])
        often = every[self._shared[every] >= _needed(math.ceil(ALIKE * size))]
        found = {j: int(self._shared[j]) for j in set(often.tolist())}
        self._shared[every] = 0
        near = [j for j in found if self._may_be_alike(size, int(self._sizes[j]), found[j])]
        near = sorted(near, key=lambda j: (-found[j], j))[:MAX_COMPARED]
        grams = self._gram_set(i) if near else frozenset()
        return [j for j in near if _jaccard(grams, self._gram_set(j)) >= ALIKE]

    @staticmethod
    def _may_be_alike(size: int, other: int, shared: int) -> bool:
        smaller, larger = min(size, other), max(size, other)
        return smaller >= ALIKE * larger and shared >= _needed(smaller)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def _join(self, i: int, j: int) -> None:
        a, b = self._root(i), self._root(j)
        self._parent[max(a, b)] = min(a, b)  # the first row names the group, so that appended rows do not rename it


def _gram_counts(texts: Sequence[str]) -> NDArray[np.int32]:
    """(_COUNTERS,) rows that hold a gram with each hash modulo _COUNTERS: too many where two grams share one."""
    counts = np.zeros(_COUNTERS, np.int32)
    for grams in _grams(texts):
        counts[grams % _COUNTERS] += 1  # once for a gram that a row has twice
    return counts


def _grams(texts: Sequence[str]) -> Iterator[Hashes]:
    """Of each text the hashes of its GRAM-character pieces; of all of it when it is shorter."""
    for start in range(0, len(texts), _AT_ONCE):
        part = [text.ljust(GRAM, "\0") for text in texts[start : start + _AT_ONCE]]
        codes = np.frombuffer("".join(part).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        hashes = np.zeros(len(codes) - GRAM + 1, np.uint64)
        for k in range(GRAM):
            hashes = hashes * _BASE + codes[k : len(hashes) + k]
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIX
        at = 0
        for text in part:
            yield hashes[at : at + len(text) - GRAM + 1]
            at += len(text)


_BASE, _MIX = np.uint64(0x100000001B3), np.uint64(0xBF58476D1CE4E5B9)  # odd: every code point counts; as in SplitMix64


def _needed(n_grams: int) -> int:
    """How many grams of their prefixes two near duplicates must share, the smaller of which has n_grams."""
    return min(max(1, n_grams // 10), MAX_NEEDED)


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def _name(plain: str) -> str:
    return "text:" + hashlib.sha256(_encoded(plain)).hexdigest()[:16]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
