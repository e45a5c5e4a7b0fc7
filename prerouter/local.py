"""The local stages: rendered request -> Scores, or why local abstains. numpy only; nothing is sent or stored.

A stage's features are its encoder's, followed by the request's signals. What a stage abstains on goes to the next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import certify, guard, modelfolder, text
from prerouter.encoder import Encoder, StaticEncoder, load_encoder
from prerouter.errors import ConfigError, InvalidRequest, ModelFolderError
from prerouter.records import Reason, Request, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CHUNK = 1024  # requests scored at a time: bounds the memory of a bulk run
# A folder must reproduce its probes: numpy differs in the last digits between processors, int8 kernels by up to 0.03.
TOLERANCE_NUMPY, TOLERANCE_ONNX = 1e-4, 0.03
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of the request against the training data's. `effect`: what it adds to the label's log-odds."""

    name: str
    value: float
    usual: float
    effect: float


@dataclass(frozen=True, slots=True)
class Word:
    """A word (in long texts a passage) and by how much the label's log-odds fall without it."""

    text: str
    effect: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the local stages say what they say about one request.

    The first fields are those of `Scores`. signals: those that differ most from the training data, most unusual
    first. words: those whose removal lowers the label's log-odds most (occlusion; Zeiler & Fergus 2014).
    """

    label: str
    probabilities: Mapping[str, float]
    stage: int
    reason: Reason
    risk: float
    threshold: float
    distance: float
    limit: float
    signals: tuple[Signal, ...]
    words: tuple[Word, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"probabilities": dict(self.probabilities)}

    def to_text(self) -> str:
        """A few lines for people."""
        chances = ", ".join(f"{name} {p:.3f}" for name, p in self.probabilities.items())
        words = ", ".join(f"{word.text!r} {word.effect:+.2f}" for word in self.words) or "none"
        signals = ", ".join(f"{s.name} {s.value:.2f} (usual {s.usual:.2f})" for s in self.signals)
        strange = " (empty, or in words that the training data does not know)"
        why = strange if self.distance == guard.MAX_DISTANCE else ""
        return (
            f"stage {self.stage}: {self.label}, {self.reason}; {chances}\n"
            f"  gate: risk {self.risk:.3f}, at most {self.threshold:.3f} passes\n"
            f"  guard: distance {self.distance:.3f}{why}, at most {self.limit:.3f} passes\n"
            f"  words that spoke most for {self.label}: {words}\n"
            f"  signals that differ most: {signals}"
        )


class LocalClassifier:
    """The stages of one model folder. Thread-safe: nothing is changed after loading.

    taxonomy_names, ordered, text_version, model_folder_id, certificate: the folder's. fingerprint: the first stage's
    encoder, whose features `Scores.features` holds.
    """

    def __init__(self, model: modelfolder.FolderModel, encoders: Sequence[Encoder]) -> None:
        self.model, self.taxonomy, self.certificate = model, model.taxonomy, model.certificate
        self.taxonomy_names, self.ordered = model.taxonomy.names, model.taxonomy.ordered
        self.text_version, self.model_folder_id = model.text_version, model.model_folder_id
        self.fingerprint = model.stages[0].fingerprint
        self._stages = [
            _Stage(i, stage, encoder, model)
            for i, (stage, encoder) in enumerate(zip(model.stages, encoders, strict=True))
        ]

    @classmethod
    def load(cls, folder: Path) -> LocalClassifier:
        """The classifier in `folder`, its files verified and its numpy stages' probes reproduced.

        Raises ModelFolderError.
        """
        try:
            model = modelfolder.load(Path(folder))
            local = cls(model, [load_encoder(stage.encoder) for stage in model.stages])
            local._check_probes(StaticEncoder, TOLERANCE_NUMPY)
        except (ConfigError, InvalidRequest) as error:  # a taxonomy or a probe that this version would not have written
            raise ModelFolderError(error.what, where=str(folder), next_step="retrain it") from error
        return local

    def score(self, request: Request, *, strict: bool = False) -> Scores:
        """What the stages say. `strict` uses each gate's quality threshold."""
        first = scores = self._stages[0].score(request, strict)
        for stage in self._stages[1:]:
            if scores.decided:
                break
            scores = replace(stage.score(request, strict), features=first.features, before=scores.by_stage)
        return scores

    def every_stage(self, request: Request, scores: Scores | None = None) -> tuple[Scores, ...]:
        """What each stage says, also those after one that decides. scores: what is known of it already."""
        known = scores.by_stage if scores else ()
        return (*known, *(stage.score(request, False) for stage in self._stages[len(known) :]))

    def score_many(self, requests: Sequence[Request], *, strict: bool = False) -> list[Scores]:
        """As `score` for each request, in order; batched."""
        out: list[Scores] = []
        for start in range(0, len(requests), CHUNK):
            out += self._score_chunk(requests[start : start + CHUNK], strict)
        return out

    def probabilities(self, requests: Sequence[Request]) -> list[tuple[tuple[float, ...], ...]]:
        """Each request's calibrated probabilities in every stage, also in those after one that decides."""
        by_stage = [stage.probabilities(requests)[1].tolist() for stage in self._stages]
        return [tuple(map(tuple, of_one)) for of_one in zip(*by_stage, strict=True)]

    def features(self, requests: Sequence[Request]) -> Floats:
        """What the first stage's encoder makes of each request: (n_requests, n_features) float32."""
        return self._stages[0].encoder.features([request.text for request in requests])

    def warm(self) -> None:
        """Load what later stages load at their first use, and run their probes. Raises ModelFolderError."""
        self._check_probes(object, TOLERANCE_ONNX)

    def explain(self, request: Request) -> Explanation:
        """Why: the stage that decided or was asked last, its gate and guard, the signals and the words."""
        scores = self.score(request)
        stage = self._stages[scores.stage]
        return Explanation(
            label=scores.label,
            probabilities=dict(zip(self.taxonomy_names, scores.probabilities, strict=True)),
            stage=scores.stage,
            reason=scores.reason,
            risk=scores.risk,
            threshold=scores.threshold,
            distance=scores.distance,
            limit=scores.limit,
            signals=stage.unusual_signals(request, self.taxonomy_names.index(scores.label)),
            words=stage.telling_words(request, self.taxonomy_names.index(scores.label)),
        )

    def _score_chunk(self, requests: Sequence[Request], strict: bool) -> list[Scores]:
        out = first = self._stages[0].score_many(requests, strict)
        for stage in self._stages[1:]:
            left = [i for i, scores in enumerate(out) if not scores.decided]
            if not left:
                break
            out = list(out)
            for i, scores in zip(left, stage.score_many([requests[i] for i in left], strict), strict=True):
                out[i] = replace(scores, features=first[i].features, before=out[i].by_stage)
        return out

    def _check_probes(self, kind: type, tolerance: float) -> None:
        requests = [text.render(probe.text, version=self.text_version) for probe in self.model.probes]
        for i, stage in enumerate(self._stages):
            if requests and isinstance(stage.encoder, kind):
                expected = np.array([probe.probabilities[i] for probe in self.model.probes])
                _check(stage.probabilities(requests)[1], expected, tolerance, self.model.stages[i].encoder)


class _Stage:
    """One stage, its arithmetic prepared: temperature folded into the weights, the centroids' norms at hand."""

    def __init__(self, index: int, stage: modelfolder.Stage, encoder: Encoder, model: modelfolder.FolderModel) -> None:
        _check_fit(stage, encoder)
        self.index, self.encoder, self._gate, self._guard = index, encoder, stage.gate, stage.guard
        self._head, self._names = stage.head, model.taxonomy.names
        weights = np.ascontiguousarray(stage.head.weights.T / np.float32(stage.temperature))
        self._weights, self._signal_weights = weights[: encoder.n_features], weights[encoder.n_features :]
        self._bias = stage.head.bias / np.float32(stage.temperature)
        self._centroids = np.ascontiguousarray(-2.0 * stage.guard.centroids.T)
        self._squares = (stage.guard.centroids**2).sum(axis=1)
        made = model.certificate
        self._contract = certify.Contract(made.max_under, made.max_disagreement, made.confidence)

    def score(self, request: Request, strict: bool) -> Scores:
        """One request. Small arrays cost more per numpy call than per number, hence plain floats from the logits on."""
        features = self.encoder.features((request.text,))[0]
        logits = features @ self._weights + self._head.standard(request.signals) @ self._signal_weights + self._bias
        probabilities = _softmax(logits.tolist())
        away = self._distance(features) if self._guard.speaks(request.text) else guard.MAX_DISTANCE
        return self._scores(probabilities, self._risk(probabilities), away, features, strict)

    def score_many(self, requests: Sequence[Request], strict: bool) -> list[Scores]:
        """Many requests in one pass."""
        features, probabilities = self.probabilities(requests)
        risks = certify.risk(probabilities, self._contract).tolist()
        away = self._guard.measure(features[:, : self.encoder.n_dims], [request.text for request in requests]).tolist()
        rows = zip(probabilities.tolist(), risks, away, features, strict=True)
        return [self._scores(*row, strict) for row in rows]

    def probabilities(self, requests: Sequence[Request]) -> tuple[Floats, Floats]:
        """Features (n, n_features) and calibrated probabilities (n, n_labels)."""
        features = self.encoder.features([request.text for request in requests])
        signals = self._head.standard(np.array([request.signals for request in requests], np.float32))
        return features, certify.softmax(features @ self._weights + signals @ self._signal_weights + self._bias)

    def unusual_signals(self, request: Request, label: int, n: int = 5) -> tuple[Signal, ...]:
        """The `n` signals furthest from the training data's mean, in standard deviations."""
        z = self._head.standard(request.signals)
        effects = z * (self._signal_weights[:, label] - self._signal_weights.mean(axis=1))
        order = np.argsort(-np.abs(z), kind="stable")[:n].tolist()
        return tuple(
            Signal(text.SIGNAL_NAMES[i], request.signals[i], float(self._head.signal_mean[i]), float(effects[i]))
            for i in order
        )

    def telling_words(self, request: Request, label: int, n: int = 5) -> tuple[Word, ...]:
        """The `n` pieces of the text without which the label's log-odds fall most."""
        pieces = list(_pieces(request.text))
        without = [replace(request, text=request.text[:a] + request.text[b:]) for a, b in pieces]
        if not pieces:
            return ()
        chances = np.clip(self.probabilities([request, *without])[1][:, label], 1e-6, 1 - 1e-6)
        log_odds = np.log(chances) - np.log1p(-chances)
        falls = log_odds[0] - log_odds[1:]
        order = [i for i in np.argsort(-falls, kind="stable")[:n].tolist() if falls[i] > 0]
        return tuple(Word(" ".join(request.text[slice(*pieces[i])].split())[:60], float(falls[i])) for i in order)

    def _distance(self, features: Floats) -> float:
        """`guard.distances` of one row: |c - x|^2 = |c|^2 - 2 c.x + |x|^2."""
        x = features[: self.encoder.n_dims]
        return math.sqrt(max(float((self._squares + x @ self._centroids).min() + x @ x), 0.0))

    def _risk(self, probabilities: Sequence[float]) -> float:
        """`certify.risk` of one row."""
        best = probabilities.index(max(probabilities))
        other = math.fsum(probabilities[:best]) + (higher := math.fsum(probabilities[best + 1 :]))
        under = self._contract.max_under
        return max(other / self._contract.max_disagreement, higher / under if under else 0.0)

    def _scores(
        self, probabilities: Sequence[float], risk: float, distance: float, features: Floats, strict: bool
    ) -> Scores:
        threshold = self._gate.quality_threshold if strict else self._gate.threshold
        return Scores(
            label=self._names[max(range(len(probabilities)), key=probabilities.__getitem__)],
            probabilities=tuple(probabilities),
            stage=self.index,
            reason=_reason(risk, threshold, distance, self._guard.limit),
            risk=risk,
            threshold=threshold or 0.0,
            distance=distance,
            limit=self._guard.limit,
            features=features if self.index == 0 else None,
        )


def _reason(risk: float, threshold: float | None, distance: float, limit: float) -> Reason:
    if threshold is None:
        return "gate_closed"
    if not distance <= limit:  # also when it is NaN
        return "abstained_guard"
    return "above_gate" if risk <= threshold else "abstained_gate"


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def _pieces(words: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the pieces to leave out in turn: words, or passages of several where the text is long.

    At most 48 pieces, fewer in a long text, so that all texts together stay below some 60,000 characters.
    """
    spans = [match.span() for match in _WORD.finditer(words)]
    n_pieces = min(48, max(8, 60_000 // max(len(words), 1)))
    size = -(-len(spans) // n_pieces) or 1
    for i in range(0, len(spans), size):
        yield spans[i][0], spans[min(i + size, len(spans)) - 1][1]


def _check_fit(stage: modelfolder.Stage, encoder: Encoder) -> None:
    step = "copy or download the whole folder again"
    if encoder.fingerprint != stage.fingerprint:
        what = f"the head was trained on another encoder ({stage.fingerprint}, found {encoder.fingerprint})"
        raise ModelFolderError(what, where=str(stage.encoder), next_step=step)
    n_inputs, n_dims = stage.head.weights.shape[1], stage.guard.centroids.shape[1]
    if n_inputs != encoder.n_features + len(text.SIGNAL_NAMES) or n_dims != encoder.n_dims:
        what = f"head takes {n_inputs} inputs, the encoder and signals give others"
        raise ModelFolderError(what, where=str(stage.encoder.parent), next_step=step)


def _check(found: Floats, expected: Floats, tolerance: float, where: Path) -> None:
    near = found.shape == expected.shape and np.abs(found - expected).max() <= tolerance  # False for NaN too
    if not near or (found.argmax(axis=1) != expected.argmax(axis=1)).any():
        what = f"the model does not reproduce its probes within {tolerance:g}"
        raise ModelFolderError(what, where=str(where), next_step="copy or download the folder again, or retrain it")
