"""What came of a logged request, told afterwards: a label, a score or an outcome. For fitting only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from prerouter.errors import ConfigError
from prerouter.logrecords import Origin, RowLabel
from prerouter.routelog import RouteLog
from prerouter.tables import did_you_mean

if TYPE_CHECKING:
    from prerouter.taxonomy import Taxonomy

REJECTED = "rejected"  # the outcome of an answer that was too weak: a label one stronger is learnt
MAX_OUTCOME = 64  # characters: a word, not a user's text


def given(
    log: RouteLog | None,
    taxonomy: Taxonomy,
    request_id: str,
    *,
    label: str | None = None,
    score: float | None = None,
    outcome: str | None = None,
) -> None:
    """Append the feedback to `log`; see `PreRouter.feedback`. Raises ConfigError."""
    if log is None:
        _refuse("there is no log to write it to", "PreRouter.load(log=RouteLog.open())")
    if not isinstance(request_id, str) or not request_id:
        _refuse("request_id must be the id of a Decision", "pass decision.id")
    name = _label(label, taxonomy)
    if score is not None and not (_is_number(score) and 0 <= score <= 1):
        _refuse("score must be a number from 0 to 1", "scale it first")
    if outcome is not None and not (isinstance(outcome, str) and 0 < len(outcome) <= MAX_OUTCOME):
        _refuse(f"outcome must be a word of 1 to {MAX_OUTCOME} characters", 'such as "rejected"')
    if name is None and score is None and outcome is None:
        _refuse("nothing is said", "pass label, score or outcome")
    origin: Origin = "rejection" if outcome == REJECTED and name is None else "feedback"
    log.add_label(request_id, RowLabel(name, origin, score=score, outcome=outcome))


def _label(label: str | None, taxonomy: Taxonomy) -> str | None:
    if label is None:
        return None
    known = taxonomy.match(label) if isinstance(label, str) else None
    if known is None:
        # The label is not quoted: it may be a user's text by mistake.
        _refuse(f"no such label in the taxonomy {taxonomy.name!r}", did_you_mean(str(label)[:40], taxonomy.names))
    return known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(what: str, next_step: str) -> NoReturn:
    raise ConfigError(what, where="feedback", next_step=next_step)
