"""The SDK's own types for a batch that stands for several: what they say, and where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from prerouter.batchstore import BatchStore, Part
from prerouter.dispatchrecords import Routing
from prerouter.logrecords import iso
from prerouter.routingreply import routed_message

_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


def counts_of(store: BatchStore, parts: Sequence[Part]) -> dict[str, int] | None:
    """How many of the items as asked came to what; all are `processing` before the last part has ended.

    None: equal items came to different ends, which only their results tell.
    """
    states = {part.nonce: part for part in parts}
    counts, tally = Counter[str](), store.tally()
    if not all(part.ended for part in parts):
        return dict.fromkeys(_COUNTS, 0) | {"processing": sum(asked for asked, _ in tally.values())}
    for (nonce, outcome), (asked, different) in tally.items():
        part = states.get(nonce or "")
        if outcome or part is None or part.gone:
            counts[outcome or "errored"] += asked
            continue
        told = {name: n for name, n in ((part.state or {}).get("request_counts") or {}).items() if n}
        if asked != different and len(told) > 1:
            return None
        counts.update({name: asked if len(told) == 1 else n for name, n in told.items()})
    return dict.fromkeys(_COUNTS, 0) | {name: counts[name] for name in _COUNTS}


def paid_counts(parts: Sequence[Part]) -> dict[str, int]:
    """How many of the items that were sent came to what, equal ones counted once."""
    told = [(part.state or {}).get("request_counts") or {} for part in parts]
    return {name: sum(counts.get(name) or 0 for counts in told) for name in _COUNTS}


def fields_of(store: BatchStore, parts: Sequence[Part], counts: Mapping[str, int]) -> dict[str, Any]:
    """A batch as the API would show it, were it one of its own."""
    states = [part.state for part in parts if part.state]
    made = iso(float(store.get("at") or 0.0))
    ended = all(part.ended for part in parts)
    cancelled = [state["cancel_initiated_at"] for state in states if state.get("cancel_initiated_at")]
    status = "ended" if ended else "canceling" if cancelled else "in_progress"
    archived = [state["archived_at"] for state in states if state.get("archived_at")]
    return {
        "id": store.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": dict(counts),
        "created_at": min((state["created_at"] for state in states), default=made),
        "expires_at": max((state["expires_at"] for state in states), default=made),
        "ended_at": max((state["ended_at"] or made for state in states), default=made) if ended else None,
        "cancel_initiated_at": min(cancelled, default=None),
        "archived_at": min(archived, default=None),
        "results_url": None,  # each part has its own, with the custom_ids of the wire
    }


def batch_of(fields: Mapping[str, Any], parts: Sequence[Part], *, beta: bool) -> Any:
    """The SDK's MessageBatch with `.parts`: ids of the batches of the API that it stands for."""
    from anthropic.types.beta.messages import BetaMessageBatch
    from anthropic.types.messages import MessageBatch

    return like(BetaMessageBatch if beta else MessageBatch, fields, parts)


def like(kind: Any, fields: Mapping[str, Any], parts: Sequence[Part]) -> Any:
    """As `batch_of`, of the type `kind`."""
    made = _with(kind, "parts").construct(**fields)
    made.__dict__["_parts"] = tuple(part.id for part in parts if part.id)
    return made


def result_of(fields: Mapping[str, Any], routing: Routing | None, *, beta: bool) -> Any:
    """The SDK's MessageBatchIndividualResponse with `.routing`, which its Message has too."""
    from anthropic.types.beta.messages import BetaMessageBatchIndividualResponse
    from anthropic.types.messages import MessageBatchIndividualResponse

    made = _with(BetaMessageBatchIndividualResponse if beta else MessageBatchIndividualResponse, "routing").construct(
        **fields
    )
    made.__dict__["_routing"] = routing
    if routing and made.result.type == "succeeded":
        routed_message(made.result.message, routing)
    return made


def deleted_of(batch_id: str, *, beta: bool) -> Any:
    """The SDK's DeletedMessageBatch."""
    from anthropic.types.beta.messages import BetaDeletedMessageBatch
    from anthropic.types.messages import DeletedMessageBatch

    kind: Any = BetaDeletedMessageBatch if beta else DeletedMessageBatch
    return kind.construct(id=batch_id, type="message_batch_deleted")


def not_ended(batch_id: str, status: str) -> Exception:
    """The SDK's error of results that are asked for too early."""
    import anthropic

    return anthropic.AnthropicError(
        f"No results for the given batch; has it finished processing? {status} - {batch_id}"
    )


@cache
def _with(base: Any, name: str) -> Any:
    """`base` with a property that is no field: `to_json` is as without it."""

    def kept(self: Any) -> Any:
        return self.__dict__.get(f"_{name}")

    def reduce(self: Any) -> Any:
        return _unpickled, (base, name, self.__getstate__())

    return type(base)(
        base.__name__, (base,), {name: property(kept), "__reduce__": reduce, "__module__": base.__module__}
    )


def _unpickled(base: Any, name: str, state: Any) -> Any:
    made = base.__new__(base)
    made.__setstate__(state)
    made.__class__ = _with(base, name)
    return made
