"""Message Batches against the real SDK and a strict fake: every row once, and no batch paid twice whatever is lost."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude, InvalidLabel, Lost, Outcome, Refusal, Reset
from fake_claude_batches import BATCHES
from label_help import errors, finish, read, rows_file, start, texts

from prerouter import UpstreamError, label
from prerouter.labelling import LabelResult
from prerouter.sections import LabelSettings
from prerouter.settings import Settings

SMALL = Settings(label=LabelSettings(batch_requests=25, poll_s=0.05))


def run(claude: FakeClaude, source: Path, output: Path, **options: Any) -> LabelResult:
    given = {"client": claude.aclient(), "settings": SMALL} | options
    return label(source, output, batch=True, **given)


def strip(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "labelled_at"} for row in rows]


def paid(claude: FakeClaude) -> int:
    return len(claude.batches.paid)


def test_batches_give_the_rows_that_live_calls_give_at_half_the_price(claude: FakeClaude, tmp_path: Path) -> None:
    asked = [f"{['What is', 'Explain', 'Prove'][i % 3]} theorem {i % 50}?" for i in range(60)]
    source = rows_file(tmp_path / "in.jsonl", asked)
    batch = run(claude, source, tmp_path / "batch.jsonl")
    assert claude.calls() == []
    live = label(source, tmp_path / "live.jsonl", client=claude.aclient())
    assert strip(read(tmp_path / "batch.jsonl")) == strip(read(tmp_path / "live.jsonl"))
    assert batch.cost_usd == pytest.approx(live.cost_usd / 2)
    sent = [item["params"] for made in claude.batches.all.values() for item in made.items]
    bodies = [call.body for call in claude.calls()]
    for one, other in zip(sent, bodies, strict=True):
        assert {**one, "messages": 0} == {**other, "messages": 0}


def test_chunks_keep_to_their_size_and_the_queue(claude: FakeClaude, tmp_path: Path) -> None:
    claude.batches.queue, claude.batches.seconds = 50, 0.3
    settings = Settings(label=LabelSettings(batch_requests=20, batch_queue=50, poll_s=0.05))
    result = run(claude, rows_file(tmp_path / "in.jsonl", texts(90)), tmp_path / "out.jsonl", settings=settings)
    assert result.labelled == 90
    assert [len(batch.items) for batch in claude.batches.all.values()] == [20, 20, 20, 20, 10]


def test_results_of_every_kind_in_any_order(claude: FakeClaude, tmp_path: Path) -> None:
    dice, seen = random.Random(7), Counter[str]()
    first: list[Outcome | str] = ["expired", "canceled", Error(529, "overloaded_error"), Error(500), InvalidLabel()]

    def outcome(custom_id: str) -> Outcome | str:
        question = custom_id.split("-", 1)[1]
        seen[question] += 1
        return dice.choice(first) if seen[question] == 1 and dice.random() < 0.4 else Answer()

    claude.batches.outcome = outcome
    out = tmp_path / "out.jsonl"
    result = run(claude, rows_file(tmp_path / "in.jsonl", texts(100)), out)
    assert (result.labelled, errors(out)) == (100, [])
    assert [row["text"] for row in read(out)] == texts(100)
    assert max(seen.values()) == 2


def test_what_no_batch_can_answer_is_reported(claude: FakeClaude, tmp_path: Path) -> None:
    kinds: dict[int, Outcome | str] = {1: "expired", 2: Refusal(), 3: Error(400, "invalid_request_error")}
    claude.batches.outcome = lambda name: kinds.get(int(name.split("-")[2]), Answer())
    source, out = rows_file(tmp_path / "in.jsonl", texts(5)), tmp_path / "out.jsonl"
    assert (run(claude, source, out).labelled, len(claude.batches.all)) == (2, 3)
    assert errors(out) == [
        {"id": "r0", "error": "batch item expired", "attempts": 3},
        {"id": "r1", "error": "refused by the labeller", "attempts": 1},
        {"id": "r2", "error": "batch item errored: invalid_request_error", "attempts": 1},
    ]
    claude.batches.outcome = lambda _: Answer()
    assert run(claude, source, out).labelled == 3  # what is final is not asked again
    assert len(claude.batches.all) == 4


@pytest.mark.parametrize("lost", [Lost(), Reset(), Error(500), Error(504)])
def test_a_lost_reply_is_looked_for_before_the_batch_is_sent_again(
    claude: FakeClaude, tmp_path: Path, lost: Outcome
) -> None:
    claude.script(lost, path=BATCHES)
    result = run(claude, rows_file(tmp_path / "in.jsonl", texts(20)), tmp_path / "out.jsonl")
    assert (result.labelled, len(claude.batches.all), paid(claude)) == (20, 1, 20)


def test_a_batch_of_somebody_else_is_not_taken_for_ours(claude: FakeClaude, tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(20))
    run(claude, source, tmp_path / "other.jsonl")
    claude.script(Reset(), path=BATCHES)
    result = run(claude, source, tmp_path / "out.jsonl")
    assert (result.labelled, len(claude.batches.all)) == (20, 2)


def test_killed_between_acceptance_and_reply_one_batch_is_paid(claude: FakeClaude, tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(30))
    out = tmp_path / "out.jsonl"
    claude.script(Lost(3600), path=BATCHES)
    process = start(claude, source, "-o", out, "--batch", "--poll-seconds", "0.1")
    _until(lambda: len(claude.batches.all) == 1)
    process.kill()
    finish(process)
    assert not out.exists()

    claude.batches.all["msgbatch_fake0000"].ends += 1.0  # it is still at work when the next run looks for it
    code, _, err = finish(start(claude, source, "-o", out, "--batch", "--poll-seconds", "0.1"))
    assert code == 0, err
    assert (len(claude.batches.all), paid(claude)) == (1, 30)
    run(claude, source, tmp_path / "plain.jsonl")
    assert strip(read(out)) == strip(read(tmp_path / "plain.jsonl"))


def test_killed_while_a_batch_is_at_work_its_results_are_read_live_too(claude: FakeClaude, tmp_path: Path) -> None:
    source, out = rows_file(tmp_path / "in.jsonl", texts(30)), tmp_path / "out.jsonl"
    claude.batches.seconds = 3600
    process = start(claude, source, "-o", out, "--batch", "--poll-seconds", "0.1")
    _until(lambda: any(record.path.startswith(f"{BATCHES}/msgbatch") for record in claude.requests))
    process.kill()
    finish(process)
    claude.batches.all["msgbatch_fake0000"].ends = 0
    result = label(source, out, client=claude.aclient(), poll_seconds=0.05)  # live: the batch is waited for first
    assert (result.labelled, claude.calls(), paid(claude)) == (30, [], 30)


def _until(true: Any) -> None:
    import time

    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_results_that_break_off_are_read_again(claude: FakeClaude, tmp_path: Path) -> None:
    claude.script(Reset(mid_body=True), Reset(mid_body=True), Error(529), path=f"{BATCHES}/results")
    result = run(claude, rows_file(tmp_path / "in.jsonl", texts(20)), tmp_path / "out.jsonl")
    assert (result.labelled, paid(claude), len(claude.batches.all)) == (20, 20, 1)


def test_looking_is_patient(claude: FakeClaude, tmp_path: Path) -> None:
    claude.batches.seconds = 0.3
    claude.script(Error(529), Reset(), Error(429), path=f"{BATCHES}/state")
    assert run(claude, rows_file(tmp_path / "in.jsonl", texts(20)), tmp_path / "out.jsonl").labelled == 20


def test_a_body_that_the_api_refuses_is_found_before_a_batch_is_sent(claude: FakeClaude, tmp_path: Path) -> None:
    claude.always(Error(400), path="/v1/messages/count_tokens")
    with pytest.raises(UpstreamError, match="HTTP 400"):
        run(claude, rows_file(tmp_path / "in.jsonl", texts(20)), tmp_path / "out.jsonl")
    assert claude.batches.all == {}


def test_a_refused_batch_leaves_nothing_behind(claude: FakeClaude, tmp_path: Path) -> None:
    source, out = rows_file(tmp_path / "in.jsonl", texts(20)), tmp_path / "out.jsonl"
    claude.script(Error(402), path=BATCHES)
    with pytest.raises(UpstreamError, match="HTTP 402"):
        run(claude, source, out)
    assert run(claude, source, out).labelled == 20
    assert len(claude.batches.all) == 1


def test_the_cap_holds_for_batches_too(claude: FakeClaude, tmp_path: Path) -> None:
    source, out = rows_file(tmp_path / "in.jsonl", texts(200)), tmp_path / "out.jsonl"
    result = run(claude, source, out, max_usd=0.004)
    assert result.capped
    assert 0.001 < result.cost_usd <= 0.004
    assert paid(claude) == result.labelled
    assert run(claude, source, out, max_usd=1).labelled == 200
    assert paid(claude) == 200


def test_votes_and_escalation_through_batches(claude: FakeClaude, tmp_path: Path) -> None:
    said = iter(["simple", "moderate", "complex"] * 10)
    claude.answer = lambda body: {
        "label": "complex" if body["model"] == "claude-sonnet-5-5" else next(said),
        "confidence": 0.5,
    }
    out = tmp_path / "out.jsonl"
    run(claude, rows_file(tmp_path / "in.jsonl", texts(4)), out, votes=3, escalate_to="claude-sonnet-5-5")
    assert {(row["label"], row["labelled_by"]) for row in read(out)} == {("complex", "claude-sonnet-5-5")}
    assert sum(sum(row["votes"].values()) for row in read(out)) == 12
