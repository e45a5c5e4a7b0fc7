"""What a labelling run will cost, before it: tokens counted by the API where there is a key, else from the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

from prerouter.ballot import Ballot
from prerouter.flights import Fault
from prerouter.intake import asked
from prerouter.journal import Ask, Journal
from prerouter.pace import DEFAULT_RPM, SHARE
from prerouter.purse import guessed_tokens, n_bytes
from prerouter.records import Usage
from prerouter.sdkbatches import BatchSdk
from prerouter.tiers import cost

LOOKED_AT = 2_000  # requests whose size is taken, evenly spread; so many tell the mean within some per cent
COUNTED = 20  # of these whose tokens the API counts
ANSWER_TOKENS = 25  # of a label with its confidence; see `prompt.ANSWER_TOKENS` for the limit
SCHEMA_TOKENS = 60  # that the API adds for the schema; a guess, for its size is not published


@dataclass(frozen=True, slots=True)
class Estimate:
    """rows: of the input, or its sample. calls: what is left to ask. Tokens and dollars: of all calls together.

    method: "count_tokens" (a sample was counted by the API) or "offline" (nothing was sent).
    """

    rows: int
    calls: int
    input_tokens: int
    output_tokens: int
    usd_live: float
    usd_batch: float
    seconds_live: float
    method: Literal["count_tokens", "offline"]

    def to_json(self) -> dict[str, Any]:
        """The estimate as a JSON object."""
        return asdict(self)


async def estimate(journal: Journal, ballot: Ballot, sdk: BatchSdk | None, rpm: int | None) -> Estimate:
    """The estimate of what `journal` has left to ask; split votes are not in it. sdk: None stays offline."""
    rows, requests = journal.count()
    calls = requests * len(ballot.prompts) - journal.n_answered(ballot.id, len(ballot.prompts))
    prompt = ballot.prompts[0]
    bodies = [prompt.body(asked(ask.data)) for ask in _spread(journal.pending(ballot.id, 1), requests)]
    sizes = [n_bytes(body) for body in bodies]
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    tokens, method = guessed_tokens(prompt.model, mean) + SCHEMA_TOKENS, "offline"
    step = max(1, len(bodies) // COUNTED)
    counted = await _counted(sdk, bodies[::step][:COUNTED]) if sdk and bodies else None
    if counted:
        tokens, method = mean * counted / sum(sizes[::step][:COUNTED]), "count_tokens"
    per_call = Usage(round(tokens), ANSWER_TOKENS)
    live, batch = (calls * cost(prompt.model, per_call, batch=half) for half in (False, True))
    rate = SHARE * (rpm or DEFAULT_RPM) / 60
    return Estimate(
        rows=rows,
        calls=calls,
        input_tokens=round(calls * tokens),
        output_tokens=calls * ANSWER_TOKENS,
        usd_live=_rounded(live),
        usd_batch=_rounded(batch),
        seconds_live=round(calls / rate, 1),
        method="count_tokens" if method == "count_tokens" else "offline",
    )


def _spread(asks: Iterator[Ask], n: int) -> Iterator[Ask]:
    return islice(asks, 0, None, max(1, n // LOOKED_AT))


async def _counted(sdk: BatchSdk, bodies: list[dict[str, Any]]) -> int | None:
    """Input tokens of these requests together; None when the API does not count them."""
    try:
        return sum([await sdk.count_tokens(body) for body in bodies])
    except Fault:
        return None


def _rounded(usd: Decimal) -> float:
    return float(round(usd, 6))
