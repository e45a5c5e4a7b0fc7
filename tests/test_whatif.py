"""The audited requests of a log under another model folder or contract, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_help
import pytest
from log_help import NOW, LogMaker, reply
from test_local import CERTIFICATE

from prerouter import cli
from prerouter.errors import DataError
from prerouter.local import LocalClassifier
from prerouter.router import PreRouter
from prerouter.whatif import WhatIf, what_if

EASY, HARD, OPEN = "easy please", "hard please", "do this now"


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[LogMaker]:
    """A log whose champion decides `easy` and `hard`."""
    settings = model_help.workspace(tmp_path)
    model_help.save(tmp_path / "models" / "champion")
    maker = LogMaker(tmp_path / "routes.db", PreRouter.load(settings=settings))
    yield maker
    maker.log.close()


def replayed(maker: LogMaker, local: LocalClassifier | None = None, **contract: Any) -> WhatIf:
    maker.log.flush()
    return what_if(maker.log, maker.router, local or maker.router.local, since=None, until=NOW + 1, **contract)


def model(folder: Path, **kind: Any) -> LocalClassifier:
    """Another folder with the same encoder and guard words, so that stored features are enough."""
    model_help.save(folder, **kind)
    return LocalClassifier.load(folder)


def fill(maker: LogMaker) -> None:
    """30 easy ones, of which 3 are moderate; 10 hard ones; 20 left open."""
    for i in range(60):
        truth = "complex" if i < 10 else "moderate" if i < 33 else "simple"
        text = HARD if i < 10 else OPEN if i < 30 else EASY
        maker.add(text, truth, days_ago=i / 10, reply=reply("claude-haiku-5-5"))
    maker.add(EASY)  # no heads row


def test_the_model_in_use_gives_what_the_log_says(maker: LogMaker) -> None:
    fill(maker)
    found = replayed(maker).to_json()
    assert found["rows"] == 60
    assert found["as_it_was"] == found["what_if"]
    assert found["changed"] == {"newly_local": 0, "no_longer_local": 0, "other_label": 0}
    was = found["as_it_was"]
    assert was["coverage"]["estimate"] == pytest.approx(40 / 60)
    assert (was["disagreement"]["estimate"], was["under_routing"]["estimate"]) == (3 / 40, 3 / 40)
    assert was["joint_under_routing"]["estimate"] == pytest.approx(3 / 60)


def test_another_model_on_stored_features(maker: LogMaker, tmp_path: Path) -> None:
    fill(maker)
    narrow = model(tmp_path / "models" / "narrow", sees="easy")
    found = replayed_like(maker, narrow)
    assert found["changed"] == {"newly_local": 0, "no_longer_local": 10, "other_label": 0}
    assert found["what_if"]["coverage"]["estimate"] == 0.5
    turned = model(tmp_path / "models" / "turned", turned=True)
    found = replayed_like(maker, turned)
    assert found["changed"]["other_label"] == 40
    assert found["what_if"]["disagreement"]["estimate"] == 1.0
    assert found["what_if"]["under_routing"]["estimate"] == 10 / 40  # the hard ones, taken for simple
    # What was easy goes to opus, what was hard to haiku.
    assert found["what_if"]["usd_per_1000"] > found["as_it_was"]["usd_per_1000"]


def replayed_like(maker: LogMaker, local: LocalClassifier) -> dict[str, Any]:
    return replayed(maker, local).to_json()


def test_dollars_are_those_of_the_labels_with_the_question_where_one_is_asked(maker: LogMaker) -> None:
    maker.add(EASY, "simple", reply=reply("claude-haiku-5-5"))
    maker.add(OPEN, "moderate", reply=reply("claude-sonnet-5-5"), cost_usd=0.0004)
    usd = (1000 * 1e-7 + 100 * 5e-7) + (1000 * 2e-6 + 100 * 10e-6) + 0.0004
    assert replayed(maker).to_json()["as_it_was"]["usd_per_1000"] == pytest.approx(1000 * usd / 2)


def test_another_contract_is_certified_on_the_audited_rows(maker: LogMaker) -> None:
    words = ("please", "do", "this", "the", "task", "now")
    for i in range(729):  # all different, for equal requests count once
        filler = " ".join(word for k, word in enumerate(words) for _ in range(i // 3**k % 3))
        maker.add(f"easy easy easy easy {filler}", "moderate" if i % 50 == 0 else "simple")
    strict = replayed(maker, max_under=0.001, max_disagreement=0.002)
    assert strict.certificate
    assert not strict.certificate.valid
    assert strict.after.local == 0
    assert strict.certificate.needed_rows
    lax = replayed(maker, max_under=0.2, max_disagreement=0.3)
    assert lax.certificate
    assert lax.certificate.valid
    assert lax.after.local > 0
    assert (lax.contract.max_under, lax.contract.max_disagreement) == (0.2, 0.3)
    assert lax.certificate.upper_disagreement <= 0.3


def test_rows_that_a_model_learnt_from_do_not_speak_for_it(maker: LogMaker, tmp_path: Path) -> None:
    fill(maker)
    log = {"learnt_up_to": NOW - 86_400 * 3.05}  # all but the newest 31
    learnt = model(tmp_path / "models" / "learnt", training={"log": log})
    found = replayed_like(maker, learnt)
    assert (found["rows"], found["left_out"]) == (31, {"learnt from": 29})
    every = model(tmp_path / "models" / "every", training={"log": {"learnt_up_to": NOW + 1}})
    with pytest.raises(DataError, match="no audited request can be replayed: 60 learnt from"):
        replayed(maker, every)


def test_what_says_nothing_is_counted_by_its_reason(maker: LogMaker, tmp_path: Path) -> None:
    maker.add(EASY, "simple")
    maker.add(EASY, "simple", decided_by="pinned")
    maker.add(EASY, "unheard of")
    maker.add(EASY, audit=True)
    found = replayed(maker)
    assert dict(found.left) == {"pinned": 1, "another label": 1, "not audited": 1}
    other = model(tmp_path / "elsewhere" / "models" / "other", certificate=replace(CERTIFICATE, scope="x"))
    with pytest.raises(DataError, match="another model"):  # a folder that is not at hand: its words may differ
        what_if(maker.log, maker.router, _foreign(other), since=None, until=NOW + 1)


def _foreign(local: LocalClassifier) -> LocalClassifier:
    """The same with another encoder."""
    local.fingerprint = "f" * 12
    return local


def test_the_command(
    maker: LogMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ws"
    model_help.workspace(folder)
    monkeypatch.setenv("PREROUTER_WORKSPACE", str(folder))
    model_help.save(folder / "models" / "mine", sees="easy")
    assert cli.main(["report", "--what-if", str(folder / "models" / "mine")]) == 2
    assert "no audited request can be replayed" in capsys.readouterr().err
