"""The guard: turns away requests unlike those a stage was trained on, in meaning or in language.

Two measures, each with a limit set on held-out requests: the distance to the nearest of the training embeddings'
centroids, and the share of letters in words that the training data does not know. The second is there because a mean
of word-piece vectors hardly tells a German request from an unusual English one (training/README.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32 or float64

N_CENTROIDS = 256
ROUNDS = 25  # of Lloyd's algorithm; the sum of squares changes by under 0.1 % a round from about the 15th on
LOST = 0.025  # share of held-out requests that each limit turns away
MAX_DISTANCE = 2.0  # between unit vectors; also what a text gets that cannot be compared: empty, or in unknown words
LANGUAGE_CHARS = 300  # read to tell the language: some 50 words
MIN_TEXTS = 3  # training texts that a word must occur in, so that names and numbers of single customers are not kept
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """centroids: (n_centroids, n_dims) float32. limit: largest distance, in [0, 2]. words: lower case, known.

    max_unknown: largest share of letters in unknown words, in [0, 1].
    """

    centroids: Floats
    limit: float
    words: frozenset[str]
    max_unknown: float

    def speaks(self, text: str) -> bool:
        """Whether `text` has content, in words that the training data knows."""
        return bool(text) and unknown_share(text, self.words) <= self.max_unknown

    def measure(self, embeddings: Floats, texts: Sequence[str]) -> Floats:
        """(n_texts,) distances: MAX_DISTANCE where the guard does not know the language."""
        known = np.fromiter(map(self.speaks, texts), bool, len(texts))
        return np.where(known, distances(embeddings, self.centroids), MAX_DISTANCE)


def fit(
    embeddings: Floats,
    texts: Sequence[str],
    held_out: Floats,
    held_out_texts: Sequence[str],
    *,
    seed: int = 0,
    lost: float = LOST,
) -> Guard:
    """The guard of a stage: centroids and words from its training rows, both limits from held-out rows.

    embeddings, held_out: (n_rows, n_dims), unit length. lost: share of held-out rows, in [0, 1), that the distance
    limit turns away; the language limit always turns away LOST.
    """
    centroids, words = fit_centroids(embeddings, seed=seed), common_words(texts)
    unknown = np.array([unknown_share(text, words) for text in held_out_texts])
    limit, max_unknown = _all_but(lost, distances(held_out, centroids)), _all_but(LOST, unknown)
    return Guard(centroids, min(limit, MAX_DISTANCE), words, max_unknown)


def fit_centroids(embeddings: Floats, *, n_centroids: int = N_CENTROIDS, seed: int = 0) -> Floats:
    """(n_centroids or fewer, n_dims) float32 centres of (n_rows, n_dims) embeddings, by Lloyd's k-means."""
    rng = np.random.default_rng(seed)
    data = np.asarray(embeddings, np.float32)
    centres = data[np.sort(rng.choice(len(data), min(n_centroids, len(data)), replace=False))]
    for _ in range(ROUNDS):
        nearest = _squared_distances(data, centres).argmin(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, data)
        sizes = np.bincount(nearest, minlength=len(centres))
        filled = sizes > 0  # an empty centre stays where it was
        centres[filled] = sums[filled] / sizes[filled, None]
    return centres


def distances(embeddings: Floats, centroids: Floats) -> Floats:
    """(n_rows,) Euclidean distance to the nearest centroid: in [0, 2] for unit vectors."""
    squares: Floats = _squared_distances(embeddings, centroids).min(axis=1)
    return np.sqrt(np.maximum(squares, 0.0))


def nearest(embeddings: Floats, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
    """(n_rows,) index of the nearest centroid, and `distances`."""
    squares = _squared_distances(np.asarray(embeddings, np.float32), centroids)
    at = squares.argmin(axis=1)
    return at, np.sqrt(np.maximum(squares[np.arange(len(at)), at], 0.0))


def common_words(texts: Sequence[str], *, min_texts: int = MIN_TEXTS) -> frozenset[str]:
    """The lower-case words that occur in at least `min_texts` of `texts`."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    return frozenset(word for word, n in counts.items() if n >= min_texts)


def unknown_share(text: str, words: Collection[str]) -> float:
    """Share of the letters in the first LANGUAGE_CHARS characters that are in words not in `words`.

    Letters and not words, because Japanese and Chinese write a whole clause as one. 1.0 without any letter: nothing
    there tells what is asked.
    """
    found = _WORD.findall(text[:LANGUAGE_CHARS].lower())
    letters, known = sum(map(len, found)), sum(map(len, filter(words.__contains__, found)))
    return (letters - known) / letters if letters else 1.0


def _all_but(lost: float, values: Floats) -> float:
    """The value that all but a share of `lost` are within; 0.0, which passes next to nothing, without values."""
    return float(np.quantile(values, 1 - lost)) if len(values) else 0.0


def _squared_distances(embeddings: Floats, centroids: Floats) -> Floats:
    squares: Floats = (embeddings**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1)
    squares -= 2 * embeddings @ centroids.T
    return squares
