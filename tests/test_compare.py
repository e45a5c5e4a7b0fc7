"""Two model folders on the same rows: who is worth more, and how sure that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from model_help import CERTIFICATE, rows, save

from prerouter.compare import ERROR_PRICE, compare
from prerouter.errors import ConfigError, DataError
from prerouter.local import LocalClassifier
from prerouter.taxonomy import Taxonomy


def local(folder: Path, **kind: object) -> LocalClassifier:
    save(folder, **kind)  # type: ignore[arg-type]
    return LocalClassifier.load(folder)


def test_a_model_is_not_worse_than_itself(tmp_path: Path) -> None:
    one = local(tmp_path / "one")
    found = compare(one, one, [rows(tmp_path / "rows.jsonl")])
    assert (found.n, found.n_groups, found.n_known) == (120, 120, 0)
    assert (found.difference, found.interval, found.p_worse, found.not_worse) == (0.0, (0.0, 0.0), 0.0, True)


def test_deciding_more_rightly_is_worth_more(tmp_path: Path) -> None:
    less, more = local(tmp_path / "less", sees="easy"), local(tmp_path / "more", sees="easy hard")
    data = [rows(tmp_path / "rows.jsonl")]
    found = compare(more, less, data)
    assert (found.challenger.coverage, found.champion.coverage) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.difference == pytest.approx(1 / 3)
    assert found.interval[0] > 0
    assert found.p_worse == 0.0
    assert compare(less, more, data).p_worse == 1.0
    assert not compare(less, more, data).not_worse


def test_an_error_costs_what_the_champions_contract_says(tmp_path: Path) -> None:
    champion = local(tmp_path / "champion", sees="easy")
    loose = replace(CERTIFICATE, max_under=0.9, max_disagreement=0.9)
    turned = local(tmp_path / "turned", sees="easy hard", turned=True, certificate=loose)
    found = compare(turned, champion, [rows(tmp_path / "rows.jsonl")])
    # A third of the rows is under-routed, a third over-routed: its own loose contract makes neither cheaper.
    under, over = 1 - ERROR_PRICE / CERTIFICATE.max_under, 1 - ERROR_PRICE / CERTIFICATE.max_disagreement
    assert found.challenger.utility == pytest.approx((under + over) / 3)
    assert (found.challenger.disagreement, found.challenger.under_routing) == (1.0, 0.5)
    assert found.not_worse is False


def test_rows_that_one_of_them_learnt_from_are_left_out(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl")
    texts = [json.loads(line)["text"] for line in data.read_text().splitlines()]
    one, other = local(tmp_path / "one", learnt=texts[:10]), local(tmp_path / "other", learnt=texts[5:20])
    found = compare(one, other, [data])
    assert (found.n, found.n_known, found.unchecked) == (100, 20, False)
    everything = local(tmp_path / "everything", learnt=texts)
    with pytest.raises(DataError, match="all in the training data"):
        compare(everything, other, [data])


def test_a_folder_that_does_not_say_what_it_learnt_is_taken_and_noted(tmp_path: Path) -> None:
    silent = local(tmp_path / "silent", learnt=None)
    assert compare(silent, silent, [rows(tmp_path / "rows.jsonl")]).unchecked is True


def test_rows_of_one_conversation_are_drawn_together(tmp_path: Path) -> None:
    less, more = local(tmp_path / "less", sees="easy"), local(tmp_path / "more", sees="easy hard")
    apart = compare(more, less, [rows(tmp_path / "apart.jsonl")])
    one = rows(tmp_path / "one.jsonl", words=["easy", "medium"])
    hard = rows(tmp_path / "hard.jsonl", words=["hard"], group="one conversation")
    together = compare(more, less, [one, hard])
    assert (together.n, together.n_groups) == (120, 81)
    assert together.interval[1] - together.interval[0] > 2 * (apart.interval[1] - apart.interval[0])


def test_deciding_a_row_of_no_class_is_an_error(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"text": "easy task", "label": "oos"}) + "\n")
    seeing = local(tmp_path / "seeing", training={"novel_label": "oos"})
    blind = local(tmp_path / "blind", sees="medium", training={"novel_label": "oos"})
    found = compare(seeing, blind, [data])
    assert (found.challenger.coverage, found.challenger.disagreement) == (1.0, 1.0)
    assert found.difference == pytest.approx(1 - ERROR_PRICE / CERTIFICATE.max_disagreement)


def test_other_labels_and_no_rows_are_refused(tmp_path: Path) -> None:
    one = local(tmp_path / "one")
    other = local(tmp_path / "other", taxonomy=Taxonomy.inferred(["a", "b", "c"]))
    with pytest.raises(ConfigError, match="are not the champion's"):
        compare(one, other, [rows(tmp_path / "rows.jsonl")])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no labelled rows"):
        compare(one, one, [tmp_path / "empty.jsonl"])
