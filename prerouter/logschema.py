"""The rows of the routing log: the record that writes a row and reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from prerouter.logrecords import RowLabel, RowRef, iso
from prerouter.records import Decision, Scores, Usage
from prerouter.redact import redact

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Reply:
    """What the log keeps of a reply: the model that answered, why it stopped, its tokens; the rest from dispatch only.

    cost_usd: of all its attempts, in US dollars, without the classifier's. baseline_usd: of the same answer at the top
    tier. seconds, first_byte_s: from the request to the last and to the first byte. attempts:
    `dispatchrecords.Attempt` as JSON objects. All of these are None or () where nobody measured them.
    """

    model: str | None
    stop_reason: str | None
    usage: Usage
    cost_usd: float | None = None
    baseline_usd: float | None = None
    seconds: float | None = None
    first_byte_s: float | None = None
    attempts: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, message: object) -> Reply:
        """From an `anthropic.types.Message`, or a mapping with the same keys; what is missing counts as 0 or None."""
        if isinstance(message, Reply):
            return message
        usage = _get(message, "usage")
        written = _get(usage, "cache_creation")
        one_hour = _tokens(written, "ephemeral_1h_input_tokens")
        return cls(
            _name(_get(message, "model")),
            _name(_get(message, "stop_reason")),
            Usage(
                input_tokens=_tokens(usage, "input_tokens"),
                output_tokens=_tokens(usage, "output_tokens"),
                cache_read_tokens=_tokens(usage, "cache_read_input_tokens"),
                # The total is always there, its split by lifetime is not; without one the default lifetime applies.
                cache_write_5m_tokens=max(0, _tokens(usage, "cache_creation_input_tokens") - one_hour),
                cache_write_1h_tokens=one_hour,
            ),
        )


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request, as it was routed.

    seq: the row's number in its file, from 1 upwards, never used twice; 0 before it is written.
    at: UTC seconds since 1970, to the microsecond.
    decision: without `rationale` and `params`, which quote the request, unless texts are kept.
    text_hash: 32 hex characters of HMAC-SHA-256 under the log's key over the text's SHA-256; equal texts, equal hashes.
    text: the rendered text, once it is stored without personal data and keys; None where texts are not kept (default).
    n_chars, signals: as in `records.Request`.
    features, fingerprint: the first stage's features, float16 (float32 where float16 overflows), and their encoder.
    scores: what each local stage said, first to last, without features; kept on heads rows only, else ().
    mode: PREROUTER_MODE at that time. labelled_by: the model that gave the label, where the classifier did.
    labels: what the row got after the fact, oldest first.
    """

    at: float
    decision: Decision
    tags: Mapping[str, str]
    text: str | None
    n_chars: int
    signals: tuple[float, ...]
    text_hash: str = ""
    reply: Reply | None = None
    fingerprint: str | None = None
    features: np.ndarray | None = field(default=None, compare=False, repr=False)
    seq: int = 0
    scores: tuple[Scores, ...] = ()
    mode: str | None = None
    labelled_by: str | None = None
    labels: tuple[RowLabel, ...] = ()

    @property
    def ref(self) -> RowRef:
        """What refers to this row before it has a number."""
        return RowRef(self.decision.id, self.at)

    @property
    def audited(self) -> RowLabel | None:
        """On a heads row the labeller's label, else None: the row's own where the classifier gave it, or an audit's."""
        made = self.decision
        if self.is_own_audit:
            whose = (self.labelled_by, made.prompt_id, made.confidence)
            return RowLabel(made.label, "audit", *whose, at=self.at, seq=self.seq, request_id=made.id)
        found = (label for label in self.labels if label.origin == "audit" and label.label is not None)
        return next(found, None) if made.audit else None

    @property
    def is_own_audit(self) -> bool:
        """True for a heads row whose label is the labeller's already."""
        return self.decision.audit and self.decision.decided_by in ("llm", "cache")

    def values(self, text_hash: str) -> tuple[Any, ...]:
        """What `INSERT` takes after the row's number. Raises whatever a value does that no store can hold.

        Personal data and keys are taken out of what quotes a request, see `redact`.
        """
        reply, usage = self.reply, self.reply.usage if self.reply else None
        return (
            micros(self.at),
            *(packed(_unquoted(name, getattr(self.decision, name))) for name in _DECISION),
            packed(self.tags),
            text_hash,
            packed(_unquoted("text", self.text)),
            self.n_chars,
            packed(self.signals),
            *(packed(getattr(reply, name, None)) for name in ("model", "stop_reason")),
            *(getattr(usage, name, None) for name in _USAGE),
            packed(self.labelled_by),
            packed(self.mode),
            packed_scores(self.scores),
            *(_finite(getattr(reply, name, None)) for name in ("cost_usd", "baseline_usd", "seconds", "first_byte_s")),
            packed(tuple(map(_told, reply.attempts))) if reply and reply.attempts else None,
        )

    def feature_values(self) -> tuple[Any, ...] | None:
        """What `INSERT_FEATURES` takes after the row's number; None for a row without features."""
        if self.features is None or not self.fingerprint:
            return None
        return packed(self.fingerprint), *_packed_features(self.features), self.decision.text_version

    @classmethod
    def read(cls, values: tuple[Any, ...]) -> LogRow:
        """The row that a SELECT of `SELECT` gave."""
        row = dict(zip(_SELECTED, values, strict=True))
        return cls(
            seq=row["seq"],
            at=row["at"] / 1e6,
            decision=_decision(row),
            tags=_unpacked(row["tags"]),
            text=row["text"],
            n_chars=row["n_chars"],
            signals=tuple(_unpacked(row["signals"])),
            text_hash=row["text_hash"],
            reply=None if row["input_tokens"] is None else _reply(row),
            fingerprint=row["fingerprint"],
            features=_unpacked_features(row),
            scores=unpacked_scores(row["scores"]),
            mode=row["mode"],
            labelled_by=row["labelled_by"],
        )

    def to_json(self, *, features: bool = False) -> dict[str, Any]:
        """The row as a flat JSON object: the Decision's keys, then its own; `features` as a list when asked for."""
        own = {name: getattr(self, name) for name in _SHOWN}
        out = {"seq": self.seq, "at": iso(self.at)} | self.decision.to_json() | own
        out |= {
            "tags": dict(self.tags),
            "signals": list(self.signals),
            "reply": asdict(self.reply) if self.reply else None,
            "scores": [_score_values(scores) for scores in self.scores],
            "labels": [label.to_json() for label in self.labels],
        }
        if features:
            out["features"] = None if self.features is None else self.features.tolist()
        return out


def micros(at: float) -> int:
    """UTC seconds as the log stores them."""
    return round(at * 1e6)


_DECISION = tuple(f.name for f in fields(Decision))
_USAGE = tuple(f.name for f in fields(Usage))
_SCORES = ("stage", "label", "probabilities", "reason", "risk", "threshold", "distance", "limit")
_SHOWN = ("text", "text_hash", "n_chars", "fingerprint", "mode", "labelled_by")
_OWN = (
    *("at", *_DECISION, "tags", "text_hash", "text", "n_chars", "signals", "reply_model", "stop_reason", *_USAGE),
    *("labelled_by", "mode", "scores", "reply_usd", "baseline_usd", "reply_seconds", "first_byte_s", "attempts"),
)
_SELECTED = ("seq", *_OWN, "fingerprint", "dtype", "shape", "data")
INSERT = f"INSERT INTO rows (seq, {', '.join(_OWN)}) VALUES (?{', ?' * len(_OWN)})"
INSERT_FEATURES = "INSERT INTO features (seq, fingerprint, dtype, shape, data, text_version) VALUES (?, ?, ?, ?, ?, ?)"
# `text_version` is in both tables.
_COLUMNS = ", ".join(f"rows.{name}" if name in ("seq", "text_version") else name for name in _SELECTED)
SELECT = f"SELECT {_COLUMNS} FROM rows LEFT JOIN features ON features.seq = rows.seq"


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder at each call


_decoded = json.JSONDecoder().raw_decode  # half the time of json.loads, which looks for white space around it


def _unpacked(text: str) -> Any:
    return _decoded(text)[0]


def packed(value: Any) -> Any:
    """`value` as a store takes it: mappings and tuples as JSON, lone surrogates, which UTF-8 cannot hold, as "?"."""
    if value is None or isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if not isinstance(value, str):
        value = _json(value if isinstance(value, tuple) else dict(value))
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def packed_scores(stages: Sequence[Scores]) -> str | None:
    """What the stages said, as JSON; None when there is nothing."""
    return packed(tuple(map(_score_values, stages))) if stages else None


def unpacked_scores(text: str | None) -> tuple[Scores, ...]:
    """What `packed_scores` packed."""
    return tuple(
        Scores(**(values | {"probabilities": tuple(values["probabilities"])} | _no_null(values)))
        for values in _unpacked(text or "[]")
    )


def _score_values(scores: Scores) -> dict[str, Any]:
    found = {name: getattr(scores, name) for name in _SCORES}
    return {name: _finite(value) if isinstance(value, float) else value for name, value in found.items()}


def _no_null(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan for name in ("risk", "threshold", "distance", "limit") if values[name] is None}


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _decision(row: dict[str, Any]) -> Decision:
    values = {name: row[name] for name in _DECISION}
    unpacked = {name: _unpacked(values[name]) for name in ("probabilities", "params")}
    unpacked |= {"adjusted_by": tuple(_unpacked(values["adjusted_by"])), "audit": bool(values["audit"])}
    return Decision(**(values | unpacked))


def _told(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt; its error may quote what a server or a proxy said."""
    return dict(attempt) | ({"error": redact(attempt["error"])} if attempt.get("error") else {})


def _unquoted(name: str, value: Any) -> Any:
    return redact(value) if value and name in ("text", "rationale", "params") else value


def _reply(row: dict[str, Any]) -> Reply:
    return Reply(
        row["reply_model"],
        row["stop_reason"],
        Usage(**{name: row[name] or 0 for name in _USAGE}),
        row["reply_usd"],
        row["baseline_usd"],
        row["reply_seconds"],
        row["first_byte_s"],
        tuple(_unpacked(row["attempts"] or "[]")),
    )


def _packed_features(features: np.ndarray) -> tuple[str, str, bytes]:
    import numpy as np

    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    kept = half if np.isfinite(half).all() else features.astype(np.float32)
    return kept.dtype.name, json.dumps(kept.shape), kept.tobytes()


def _unpacked_features(row: dict[str, Any]) -> np.ndarray | None:
    if row["data"] is None:
        return None
    import numpy as np

    return np.frombuffer(row["data"], dtype=row["dtype"]).reshape(_unpacked(row["shape"]))


def _get(source: object, name: str) -> object:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _tokens(usage: object, name: str) -> int:
    value = _get(usage, name)
    return value if isinstance(value, int) else 0


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None
