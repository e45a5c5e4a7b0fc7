"""The head of a stage: multinomial logistic regression, its strength C chosen by cross-validation.

The only room that imports scikit-learn's models and joblib for fitting; what comes out is plain numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify
from prerouter.errors import MissingExtraError
from prerouter.modelfolder import Head
from prerouter.progress import Progress

Floats = NDArray[Any]
Ints = NDArray[np.int64]

# scikit-learn's C, weakest first: the search goes up while the loss falls, each fit starting from the one before.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
DEFAULT_STRENGTH = 1.0  # where there are too few rows to choose
FOLDS = 5
MIN_ROWS = 50  # fewer are not cross-validated
_ABSENT = -20.0  # logit of a label that no fit row has: a probability of 2e-9
_PATIENCE = 2  # strengths without gain after which the search ends


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a head learns from, n rows. features: (n, n_features); signals: (n, n_signals); truth: label indices.

    weights: (n,) above 0. groups: names; rows of one group are in one fold.
    """

    features: Floats
    signals: Floats
    truth: Ints
    weights: Floats
    groups: Sequence[str]

    def take(self, at: Ints) -> Rows:
        """The rows at these positions."""
        groups = [self.groups[i] for i in at.tolist()]
        return Rows(self.features[at], self.signals[at], self.truth[at], self.weights[at], groups)


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """How C was chosen. losses: {C: out-of-fold log-loss after temperature}; {} when there were too few rows.

    signals: whether the head reads them. logits: (n, n_labels) out of fold at the chosen C; None without a search.
    loss, accuracy: of these; None without.
    """

    strength: float
    signals: bool
    losses: dict[float, float]
    logits: Floats | None = None
    loss: float | None = None
    accuracy: float | None = None


def check_extra() -> None:
    """Raise MissingExtraError unless scikit-learn and joblib are there; everything below takes them for granted."""
    for module, package in (("sklearn", "scikit-learn"), ("joblib", "joblib")):
        if find_spec(module) is None:
            raise MissingExtraError(package, "train")


def fit_head(rows: Rows, n_labels: int, *, strength: float, signals: bool = True) -> Head:
    """The head of all rows, which must have two labels at least."""
    scale = _scale(rows.signals)
    with _quiet(None):
        weights, bias = _fitted(_inputs(rows, scale, signals), rows, n_labels, strength, None)
    n_signals = rows.signals.shape[1]
    if not signals:
        weights = np.hstack([weights, np.zeros((n_labels, n_signals))])
    return Head(weights.astype(np.float32), bias.astype(np.float32), scale.signal_mean, scale.signal_scale)


def search(rows: Rows, n_labels: int) -> Search:
    """The C with the least out-of-fold log-loss, and whether signals lower it. Folds are drawn by group.

    The loss is taken after temperature scaling of the pooled logits, since a head is served with one.
    """
    folds = _folds(rows, n_labels)
    if not folds:
        return Search(DEFAULT_STRENGTH, True, {})
    losses: dict[float, float] = {}
    best, starts = np.empty(0), None
    with _quiet(1), Progress("choosing C", total=len(rows.truth) * (len(STRENGTHS) + 2)) as progress:
        signals = _signals_help(rows, folds, n_labels)
        progress.advance(2 * len(rows.truth))
        for strength in STRENGTHS:
            logits, starts = _out_of_fold(rows, folds, n_labels, strength, signals, starts)
            losses[strength] = loss(logits, rows.truth)
            best = logits if losses[strength] == min(losses.values()) else best
            progress.advance(len(rows.truth))
            if min(list(losses.values())[-_PATIENCE:]) > min(losses.values()):
                break
    strength = min(losses, key=lambda c: losses[c])
    accuracy = float((best.argmax(axis=1) == rows.truth).mean())
    return Search(strength, signals, losses, best, losses[strength], accuracy)


def logits(head: Head, features: Floats, signals: Floats) -> Floats:
    """(n, n_labels) float64, before temperature."""
    n_features = features.shape[1]
    found: Floats = (features @ head.weights[:, :n_features].T).astype(np.float64)
    found += head.standard(signals) @ head.weights[:, n_features:].T + head.bias
    return found


def _signals_help(rows: Rows, folds: Sequence[Ints], n_labels: int) -> bool:
    """Intents hardly show in a text's shape, difficulty does."""
    found = (_out_of_fold(rows, folds, n_labels, DEFAULT_STRENGTH, use, None)[0] for use in (True, False))
    with_signals, without = (loss(logits, rows.truth) for logits in found)
    return with_signals <= without


def _out_of_fold(
    rows: Rows, folds: Sequence[Ints], n_labels: int, strength: float, signals: bool, starts: Any
) -> tuple[Floats, list[tuple[Floats, Floats]]]:
    """Logits of each row by a head that did not learn from its fold, and these heads."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    def one(held_out: Ints, start: Any) -> tuple[Floats, Floats]:
        fit = rows.take(np.setdiff1d(np.arange(len(rows.truth)), held_out))
        return _fitted(_inputs(fit, _scale(fit.signals), signals), fit, n_labels, strength, start)

    jobs = (delayed(one)(fold, start) for fold, start in zip(folds, starts or [None] * len(folds), strict=True))
    heads = Parallel(n_jobs=-1, prefer="threads")(jobs)
    out = np.empty((len(rows.truth), n_labels))
    for held_out, (weights, bias) in zip(folds, heads, strict=True):
        fit = rows.take(np.setdiff1d(np.arange(len(rows.truth)), held_out))
        out[held_out] = _inputs(rows.take(held_out), _scale(fit.signals), signals) @ weights.T + bias
    return out, heads


def _fitted(
    inputs: Floats, rows: Rows, n_labels: int, strength: float, start: tuple[Floats, Floats] | None
) -> tuple[Floats, Floats]:
    """Weights (n_labels, n_inputs) and bias (n_labels,); a label that no row has gets a bias of _ABSENT."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    labels, truth = np.unique(rows.truth, return_inverse=True)
    model = LogisticRegression(C=strength, max_iter=500, tol=1e-4, warm_start=start is not None)
    if start is not None:
        weights, bias = start
        model.coef_, model.intercept_ = weights[labels], bias[labels]
        if len(labels) == 2:  # scikit-learn keeps the difference of the two
            model.coef_, model.intercept_ = np.diff(model.coef_, axis=0), np.diff(model.intercept_)
        model.classes_ = np.arange(len(labels))
    model.fit(inputs, truth, rows.weights.astype(inputs.dtype))
    coefficients, intercepts = model.coef_, model.intercept_
    if len(labels) == 2:
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weights, bias = np.zeros((n_labels, inputs.shape[1])), np.full(n_labels, _ABSENT)
    weights[labels], bias[labels] = coefficients, intercepts
    return weights, bias


def _inputs(rows: Rows, scale: Head, signals: bool) -> Floats:
    return np.hstack([rows.features, scale.standard(rows.signals)]) if signals else rows.features


def _scale(signals: Floats) -> Head:
    """A head without weights, for its scaling of signals."""
    mean, scale = signals.mean(axis=0), signals.std(axis=0)
    scale[scale < 1e-6] = 1.0  # a signal that never varies says nothing, and must not be divided by nothing
    empty = np.empty((0, 0), np.float32)
    return Head(empty, empty[0:0].ravel(), mean.astype(np.float32), scale.astype(np.float32))


def _folds(rows: Rows, n_labels: int) -> list[Ints]:
    """Positions of each fold, whole groups, in the order of their names' hashes; [] with too few rows or labels."""
    names, number = np.unique(np.asarray(rows.groups), return_inverse=True)
    if len(rows.truth) < MIN_ROWS or len(names) < FOLDS:
        return []
    fold = np.random.default_rng(len(names)).permutation(len(names))[number] % FOLDS
    folds = [np.flatnonzero(fold == k) for k in range(FOLDS)]
    rest = [np.delete(rows.truth, held_out) for held_out in folds]
    return folds if all(len(np.unique(truth)) >= 2 for truth in rest) else []


def loss(logits: Floats, truth: Ints) -> float:
    """Mean log-loss in nats at the best temperature for these logits."""
    p = certify.softmax(logits / certify.fit_temperature(logits, truth))
    return float(-np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-12)).mean())


@contextmanager
def _quiet(threads: int | None) -> Iterator[None]:
    """No warnings of fits that used up their iterations. threads: of each fit; 1 where folds run side by side."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore")
        yield
