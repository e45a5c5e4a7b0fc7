"""Usage logs as services write them: which shapes are read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prerouter.errors import DataError
from prerouter.records import Usage
from prerouter.usagelog import UsageRow, read_usage

MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]
USAGE = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 30,
    "cache_creation": {"ephemeral_1h_input_tokens": 20},
}
TOKENS = Usage(10, 5, 100, 10, 20)


def read(path: Path, *rows: Any) -> list[UsageRow | DataError]:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return list(read_usage(str(path)))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES, "model": "m", "usage": USAGE},
        {"request": {"messages": MESSAGES, "model": "m"}, "response": {"model": "m", "usage": USAGE}},
        {"params": {"messages": MESSAGES}, "result": {"type": "succeeded", "message": {"model": "m", "usage": USAGE}}},
        {"body": {"messages": MESSAGES, "model": "m"}, "reply": {"usage": USAGE}},
        {"request": json.dumps({"messages": MESSAGES, "model": "m"}), "response": json.dumps({"usage": USAGE})},
        {"text": "What is 2 + 2?", "model": "m", "usage": USAGE},
    ],
)
def test_the_shapes_that_logs_have(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = read(tmp_path / "u.jsonl", row)
    assert isinstance(found, UsageRow)
    assert (found.model, found.usage, found.id) == ("m", TOKENS, "1")
    assert found.body in ("What is 2 + 2?", {"messages": MESSAGES})


def test_the_model_that_answered_stands_above_the_one_asked_for(tmp_path: Path) -> None:
    row = {"request": {"messages": MESSAGES, "model": "alias"}, "response": {"model": "dated", "usage": USAGE}}
    (found,) = read(tmp_path / "u.jsonl", row)
    assert isinstance(found, UsageRow)
    assert found.model == "dated"


@pytest.mark.parametrize(
    "value", ["2026-11-20T12:00:00Z", "2026-11-20T13:00:00+01:00", "2026-11-20 12:00:00", 1795176000, 1795176000000]
)
def test_times_in_the_usual_forms(tmp_path: Path, value: Any) -> None:
    (found,) = read(tmp_path / "u.jsonl", {"messages": MESSAGES, "timestamp": value})
    assert isinstance(found, UsageRow)
    assert found.at == 1795176000.0


def test_how_it_was_billed_and_answered(tmp_path: Path) -> None:
    usage = USAGE | {"service_tier": "batch", "inference_geo": "us", "speed": "fast"}
    answer = {"content": [{"type": "text", "text": "4"}], "stop_reason": "end_turn", "usage": usage}
    row = {"id": 7, "messages": MESSAGES, "response": answer, "tags": {"team": "a", "beta": True}}
    (found,) = read(tmp_path / "u.jsonl", row)
    assert isinstance(found, UsageRow)
    assert (found.batch, found.us, found.fast, found.id) == (True, True, True, "7")
    assert found.tags == {"team": "a", "beta": "true"}
    assert (found.content, found.stop_reason) == (({"type": "text", "text": "4"},), "end_turn")


def test_a_row_without_usage_is_no_error(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "u.jsonl", {"messages": MESSAGES, "model": "m"})
    assert isinstance(found, UsageRow)
    assert found.usage is None


@pytest.mark.parametrize(
    "row",
    [
        "{not json",
        "[1]",
        {"model": "m", "usage": USAGE},
        {"messages": MESSAGES, "at": "yesterday"},
        {"messages": MESSAGES, "at": 1e300},
        {"messages": MESSAGES, "usage": {"input_tokens": -1}},
        {"request": "{broken", "usage": USAGE},
        {"messages": "[broken", "usage": USAGE},
    ],
)
def test_what_is_broken_is_named_by_line(tmp_path: Path, row: Any) -> None:
    good = {"messages": MESSAGES, "model": "m"}
    first, second, third = read(tmp_path / "u.jsonl", good, row, good)
    assert isinstance(first, UsageRow)
    assert isinstance(third, UsageRow)
    assert isinstance(second, DataError)
    assert second.line == 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read it"):
        next(read_usage(str(tmp_path / "none.jsonl")))
