"""One request on its way to a Decision: the body read, its limits, the audit coin."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

from prerouter import text
from prerouter.errors import InvalidRequest
from prerouter.policy import Limits, Policy, check_options
from prerouter.records import Priority, Request, Scores

if TYPE_CHECKING:
    from prerouter.local import LocalClassifier

Body = str | Mapping[str, Any]
_COIN_SIDES = float(1 << 32)


class Options(TypedDict, total=False):
    """What `decide` and `adecide` take beside the request; all optional."""

    local_only: bool  # never call out
    force_model: str | None  # pin the model; stands above every bound
    force_label: str | None  # pin the label; bounds still hold
    min_tier: str | None
    max_tier: str | None
    priority: Priority | None  # cost: the certified gate; quality: stricter, ties go up; speed: never ask
    tags: Mapping[str, object] | None  # matched by rules, kept in the log
    conversation_id: str | None  # kept in the log
    max_wait_s: float | None  # seconds; lowers the classifier's deadline
    request_id: str | None  # becomes Decision.id
    hint: str | None  # label of the conversation's last turn, shown to the classifier


@dataclass(slots=True)
class Case:
    """One request on its way to a Decision.

    local: the model that serves it, to its end: the router's may be replaced meanwhile. audit, audit_p: the coin and
    its probability. seconds: set where several cases share one wall time.
    """

    id: str
    request: Request
    local: LocalClassifier
    limits: Limits
    audit: bool
    audit_p: float
    started: float
    local_only: bool
    max_wait_s: float | None
    tags: Mapping[str, object]
    scores: Scores | None = None
    seconds: float | None = None


def opened(
    body: Body,
    local: LocalClassifier,
    policy: Policy,
    audit_p: float,
    *,
    where: str = "",
    local_only: bool = False,
    max_wait_s: float | None = None,
    request_id: str | None = None,
    tags: Mapping[str, object] | None = None,
    conversation_id: str | None = None,
    hint: str | None = None,
    **overrides: Any,
) -> Case:
    """The case of `body`, nothing decided yet. where: names the body in an error. overrides: as in `Options`.

    Raises InvalidRequest.
    """
    started = time.perf_counter()
    # One read of the system's generator gives id and coin: it cannot repeat itself in a forked child.
    random = os.urandom(20)
    try:
        request = text.render(body, version=local.text_version)
    except InvalidRequest as error:
        place = ".".join(filter(None, (where, error.where)))
        raise InvalidRequest(error.what, where=place, next_step=error.next_step) from error
    check_options(max_wait_s, request_id, tags, conversation_id, hint)
    if hint:
        request = replace(request, hint=policy.match(hint))
    limits = policy.limits(tags=tags, **overrides)
    audit = int.from_bytes(random[16:]) / _COIN_SIDES < audit_p
    all_tags = {**(tags or {}), **({"conversation_id": conversation_id} if conversation_id else {})}
    name = random[:16].hex() if request_id is None else request_id
    return Case(name, request, local, limits, audit, audit_p, started, local_only, max_wait_s, all_tags)
