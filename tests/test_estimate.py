"""Estimates of what is left to pay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fake_claude import Error, FakeClaude
from label_help import rows_file, texts

from prerouter import label
from prerouter.estimate import COUNTED
from prerouter.labelling import estimate

COUNT = "/v1/messages/count_tokens"


def test_nothing_is_sent_without_a_key(claude: FakeClaude, tmp_path: Path) -> None:
    found = estimate([rows_file(tmp_path / "in.jsonl", texts(30))])
    assert (found.method, found.rows, found.calls, claude.requests) == ("offline", 30, 30, [])
    assert found.usd_live > found.usd_batch > 0


def test_a_sample_is_counted_not_all(claude: FakeClaude, tmp_path: Path) -> None:
    found = estimate([rows_file(tmp_path / "in.jsonl", texts(300))], client=claude.aclient())
    assert found.method == "count_tokens"
    assert {record.path for record in claude.requests} == {COUNT}
    assert len(claude.requests) == COUNTED


def test_the_estimate_is_what_is_billed_later(claude: FakeClaude, tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(40))
    found = estimate([source], client=claude.aclient(), votes=2)
    billed = label(source, tmp_path / "out.jsonl", client=claude.aclient(), votes=2, rpm=100_000)
    assert found.input_tokens == pytest.approx(billed.input_tokens, rel=0.01)
    assert found.usd_live == pytest.approx(billed.cost_usd, rel=0.15)


def test_an_api_that_does_not_count_is_no_obstacle(claude: FakeClaude, tmp_path: Path) -> None:
    claude.always(Error(404), path=COUNT)
    assert estimate([rows_file(tmp_path / "in.jsonl", texts(3))], client=claude.aclient()).method == "offline"


def test_duplicates_and_samples_cost_what_is_asked(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(10) * 10)
    assert estimate([source]).calls == 10
    assert estimate([source], sample=5).rows == 5
    assert estimate([source], votes=3).calls == 30


def test_an_empty_file(tmp_path: Path) -> None:
    found = estimate([rows_file(tmp_path / "in.jsonl", [])])
    assert (found.rows, found.calls, found.usd_live, found.input_tokens) == (0, 0, 0.0, 0)


def test_it_works_inside_an_event_loop(tmp_path: Path) -> None:
    async def call() -> int:
        return estimate([rows_file(tmp_path / "in.jsonl", texts(2))]).rows

    assert asyncio.run(call()) == 2
