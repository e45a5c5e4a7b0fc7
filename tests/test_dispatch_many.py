"""Many requests at once, a tenth of the calls spoiled: an answer or a typed error for each, logged once, paid for once.

`python tests/test_dispatch_many.py` does it with a thousand, sync and async.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from dispatch_help import TYPED, Side, ask, caller, text
from fake_claude import Answer, CutJson, EmptyEndTurn, Error, FakeClaude, MaxTokens, Refusal, Reset, asks_for_label

FAULTS = [
    *(Error(529), Error(500), Error(429, retry_after=0.05), Error(400), Reset()),
    *(EmptyEndTurn(), MaxTokens(), Refusal(None), Refusal(None, "I can")),
]
BROKEN = [CutJson(), Reset(mid_body=True)]  # not of classifier calls: of a verdict that broke off no bill is told
TEXTS = ("What is 2 + 2?", "Summarise this mail.", "Prove that the protocol is linearizable.")


def whole(result: Any) -> bool:
    """Whether it is an answer; an error must be a typed one."""
    if isinstance(result, Exception):
        assert isinstance(result, TYPED), repr(result)
        return False
    assert result.stop_reason is not None
    return text(result) == "A simulated answer."


def send(n: int, side: Side, folder: Path) -> dict[str, Any]:
    """Send `n` at once and check all of it; figures for people."""
    chance = random.Random(7)
    with FakeClaude() as claude, caller(claude, side, folder) as calling:
        claude.draw = lambda: chance.choice(FAULTS) if chance.random() < 0.1 else Answer()
        claude.script(*BROKEN * (n // 100), when=lambda body: not asks_for_label(body))
        started = time.monotonic()
        results = calling.all([ask(f"{TEXTS[i % 3]} ({i})", tags={"i": str(i)}) for i in range(n)])
        seconds = time.monotonic() - started
        came = [whole(result) for result in results]
        calling.log.flush(20)
        rows = list(calling.log.tail(2 * n))
        billed = claude.billed(told=True)
    assert len(came) == n
    assert sorted(row.tags["i"] for row in rows) == sorted(str(i) for i in range(n))
    assert len({row.decision.id for row in rows}) == n
    assert calling.report.total.requests == n
    assert calling.spent() == billed
    attempts = dict(calling.report.attempts)
    return {"requests": n, "side": side, "answers": sum(came), "seconds": round(seconds, 1), "attempts": attempts}


@pytest.mark.parametrize("side", ["sync", "async"])
def test_hundreds_at_once_with_ten_percent_faults(tmp_path: Path, side: Side) -> None:
    assert send(200, side, tmp_path)["answers"] > 180


MIXED = {
    "What is the capital of Mongolia?": "claude-haiku-5-5",
    "Is this review positive? 'Loved it.'": "claude-haiku-5-5",
    "Analyse why sign-ups fell in March although visits rose, from the table below.": "claude-sonnet-5-5",
    "Compare these two offers and explain which one is better for a family of four.": "claude-sonnet-5-5",
    "Write a function that merges overlapping intervals, with tests.": "claude-sonnet-5-5",
    "Prove that the consensus protocol below is linearizable under crash faults.": "claude-opus-5-5",
    "Design the architecture of a payment system for ten regions; discuss every trade-off.": "claude-opus-5-5",
    "Debug this deadlock between three services and their lock managers.": "claude-opus-5-5",
}


@pytest.mark.parametrize("side", ["sync", "async"])
def test_a_map_sends_each_request_where_it_belongs(claude: FakeClaude, tmp_path: Path, side: Side) -> None:
    claude.always(Error(400), when=lambda body: "Broken" in body["messages"][0]["content"])
    requests = [{"max_tokens": 900, "messages": [{"role": "user", "content": said}]} for said in (*MIXED, "Broken")]
    with caller(claude, side, tmp_path) as calling:
        *replies, error = calling.map(requests, concurrency=4)
        assert [reply.model for reply in replies] == list(MIXED.values())
        assert [reply.routing.decision.decided_by for reply in replies].count("llm") >= 4
        assert isinstance(error, TYPED)
        assert calling.spent() == claude.billed()
        assert calling.log.flush() == len(requests)


if __name__ == "__main__":
    for name in get_args(Side):
        with tempfile.TemporaryDirectory() as place:
            print(send(int(sys.argv[1]) if sys.argv[1:] else 1_000, name, Path(place)))
