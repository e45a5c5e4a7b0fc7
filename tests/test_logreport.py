"""The report on the routing log: figures by hand, and the command from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_help
import pytest
from log_help import NOW, LogMaker, reply

from prerouter import cli
from prerouter.logreport import LogReport, log_report
from prerouter.pairs import between
from prerouter.routelog import RowLabel
from prerouter.router import PreRouter

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
EASY, HARD, OPEN = "easy please", "hard please", "do this now"  # simple, complex, left open
USD = {OPUS: 1000 * 4e-6 + 100 * 20e-6, SONNET: 1000 * 2e-6 + 100 * 10e-6, HAIKU: 1000 * 1e-7 + 100 * 5e-7}


@pytest.fixture
def router(tmp_path: Path) -> PreRouter:
    model_help.save(tmp_path / "model")
    return PreRouter.load(tmp_path / "model")


@pytest.fixture
def maker(tmp_path: Path, router: PreRouter) -> Iterator[LogMaker]:
    maker = LogMaker(tmp_path / "routes.db", router)
    yield maker
    maker.log.close()


def report(maker: LogMaker, days: float = 30) -> LogReport:
    maker.log.flush()
    return log_report(maker.log, maker.router, since=NOW - 86_400 * days, until=NOW + 1)


def test_who_decided_and_coverage_over_time(maker: LogMaker) -> None:
    for day, texts in ((2, [EASY, OPEN]), (1, [EASY, HARD, EASY, OPEN]), (40, [EASY])):
        for text in texts:
            maker.add(text, "moderate" if text == OPEN else None, days_ago=day, tags={"team": "a" if day == 1 else "b"})
    found = report(maker).to_json()
    assert (found["rows"], found["coverage"]) == (6, pytest.approx(4 / 6))
    assert found["by_decided_by"] == {"local": 4, "llm": 2}
    assert found["by_label"] == {"simple": 3, "moderate": 2, "complex": 1}
    assert [part["coverage"] for part in found["over_time"].values()] == [0.5, 0.75]
    assert {tag: {v: part["rows"] for v, part in of.items()} for tag, of in found["by_tag"].items()} == {
        "team": {"a": 4, "b": 2}
    }


def test_dollars_as_dispatch_logged_them(maker: LogMaker) -> None:
    for _ in range(3):
        maker.add(EASY, reply=reply(HAIKU, cost_usd=0.01, baseline_usd=0.4))
    maker.add(OPEN, "moderate", reply=reply(SONNET, cost_usd=0.2, baseline_usd=0.4))
    same = report(maker).to_json()["savings"]["same_tokens"]
    assert same["spent_usd"] == pytest.approx(0.23 + 0.0001)
    assert same["always_top_usd"] == pytest.approx(1.6)
    assert same["saved_usd"] == pytest.approx(1.6 - 0.23 - 0.0001)
    assert same["haiku_first_usd"] == pytest.approx(0.23 + 4 * 0.0001)
    assert same["saved_against_haiku_first_usd"] == pytest.approx(3 * 0.0001)


def test_replies_without_a_price_are_priced_from_their_tokens(maker: LogMaker) -> None:
    for _ in range(4):
        maker.add(EASY, reply=reply(HAIKU))
    maker.add(EASY, reply=reply("gpt-5"))
    found = report(maker).to_json()
    assert (found["estimated"], found["unpriced"], found["replies"]) == (4, 1, 5)
    assert found["reply_usd"] == pytest.approx(4 * USD[HAIKU])
    assert found["top_usd"] == pytest.approx(4 * USD[OPUS])


def test_shadow_mode_says_what_routing_would_save_and_pairs_what_it_really_does(maker: LogMaker) -> None:
    judged = RowLabel(None, "judge", OPUS, "j1", 0.8, score=0.002, outcome="won", cost_usd=0.005)
    for i in range(12):
        outcome = "won" if i < 3 else "tied"
        maker.add(EASY, reply=reply(OPUS), mode="shadow", judged=replace(judged, outcome=outcome))
    maker.add(HARD, reply=reply(OPUS), mode="shadow")
    maker.add(EASY, reply=reply(OPUS), mode="shadow", judged=replace(judged, outcome="refused", score=None))
    found = report(maker).to_json()
    same, real = found["savings"]["same_tokens"], found["savings"]["measured"]
    assert same["shadow_saved_usd"] == pytest.approx(13 * (USD[OPUS] - USD[HAIKU]))
    assert real["moved_usd"] == pytest.approx(13 * USD[OPUS])
    assert real["share"] == pytest.approx(1 - 0.002 / USD[OPUS])
    assert real["saved_usd"] == pytest.approx(13 * USD[OPUS] * real["share"])
    route = found["shadow"]["by_route"][f"{OPUS} -> {HAIKU}"]
    assert (route["n"], route["won"]["share"], route["lost"]["share"]) == (12, 0.25, 0.0)


def test_measured_savings_apply_to_what_routing_moved_in_on_mode(maker: LogMaker) -> None:
    maker.add(EASY, reply=reply(HAIKU, cost_usd=0.01, baseline_usd=0.4))
    maker.add(HARD, reply=reply(OPUS, cost_usd=0.4, baseline_usd=0.4))
    assert report(maker).total.moved_usd == pytest.approx(0.4)


def test_disagreement_of_audited_local_decisions_with_exact_bounds(maker: LogMaker) -> None:
    for i in range(20):
        maker.add(EASY, "moderate" if i < 2 else "simple", days_ago=i / 10)
    for _ in range(10):
        maker.add(HARD, "simple")
    maker.add(OPEN, "moderate")
    maker.add(EASY)
    found = report(maker).to_json()["audits"]
    assert (found["n"], found["local"]["n"]) == (31, 30)
    wrong, weaker = found["local"]["disagreement"], found["local"]["under_routing"]
    assert (wrong["estimate"], weaker["estimate"]) == (0.4, pytest.approx(2 / 30))
    assert (wrong["lower"], wrong["upper"]) == pytest.approx(between(12, 30))
    assert found["by_label"]["complex"]["under_routing"]["estimate"] == 0.0
    assert list(found["by_labeller"]) == ["claude-haiku-5-5 prompt-a"]


def test_latency_of_each_path(maker: LogMaker) -> None:
    for i in range(100):
        maker.add(EASY, seconds=0.001 * (i + 1), reply=reply(HAIKU, seconds=2.0, first_byte_s=0.5))
    found = {(row["what"], row["path"]): row for row in report(maker).to_json()["latency"]}
    local = found["decide", "local 0"]
    assert local["n"] == 100
    assert local["p50_s"] == pytest.approx(0.05, rel=0.06)
    assert local["p99_s"] == pytest.approx(0.099, rel=0.06)
    assert found["reply", HAIKU]["p50_s"] == pytest.approx(2.0, rel=0.06)
    assert found["first_byte", HAIKU]["p90_s"] == pytest.approx(0.5, rel=0.06)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ws"
    model_help.workspace(folder)
    model_help.save(folder / "models" / "mine")
    (folder / "models" / "champion").symlink_to("mine")
    monkeypatch.setenv("PREROUTER_WORKSPACE", str(folder))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def fill(folder: Path, n: int = 60) -> LogMaker:
    """A log of the last days, as the wall clock counts them."""
    import time

    maker = LogMaker(folder / ".prerouter" / "routes.db", PreRouter.load(folder / "models" / "mine"))
    offset = (NOW - time.time()) / 86_400
    for i in range(n):
        text, truth = (EASY, "simple") if i % 3 else (OPEN, "moderate")
        maker.add(
            text, truth, days_ago=offset + i / 10 + 0.01, reply=reply(HAIKU if i % 3 else SONNET), tags={"team": "a"}
        )
    maker.log.close()
    return maker


def test_an_empty_log_is_no_error(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--json")
    assert code == 0
    assert (json.loads(out)["rows"], json.loads(out)["coverage"]) == (0, None)
    assert "no requests in the log" in err
    assert run(capsys)[0] == 0


def test_the_command(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(workspace)
    code, out, _ = run(capsys, "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["coverage"]) == (0, 60, pytest.approx(2 / 3))
    assert run(capsys, "--since", "1d", "--json")[1].startswith('{"source": "log"')
    assert json.loads(run(capsys, "--since", "1d", "--json")[1])["rows"] < 20
    code, out, _ = run(capsys)
    assert code == 0
    for heading in ("Cost and savings", "Over time", "Decided by", "Disagreement", "Latency", "By tag team"):
        assert heading in out


def test_the_page_is_self_contained(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(workspace)
    page = tmp_path / "r.html"
    assert run(capsys, "--html", page, "--json")[0] == 0
    text = page.read_text()
    assert "<svg" in text
    assert "prefers-color-scheme: dark" in text
    assert not any(word in text for word in ("<script", "http://", "https://", "src="))


def test_pairs_of_a_file_are_counted_with_those_of_the_log(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_pairs import pairs

    from prerouter.pairs import dumped

    fill(workspace)
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(map(dumped, pairs(10, 10, 0))))
    found: dict[str, Any] = json.loads(run(capsys, "--pairs", file, "--json")[1])
    assert found["savings"]["measured"]["share"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--since", "soon"], "not an age"),
        (["--max-under", "2"], "not a number between 0 and 1"),
        (["--from", "none.jsonl"], "cannot read it"),
        (["--from", "u.jsonl", "--max-under", "0.1"], "another contract cannot be tried"),
        (["--pairs", "none.jsonl"], "cannot read it"),
        (["--what-if", "none"], "none"),
    ],
)
def test_wrong_use_is_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert what in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_log(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / ".prerouter").mkdir()
    (workspace / ".prerouter" / "routes.db").write_text("hello, this is not a database file at all, is it")
    code, _, err = run(capsys)
    assert code == 2
    assert err.startswith("prerouter: error: ")
