"""What becomes of the rows before anything is learnt, and what bad data gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from prerouter import overlap, trainset
from prerouter.errors import DataError
from prerouter.taxonomy import Taxonomy
from prerouter.trainset import TrainSet


def _load(folder: Path, rows: list[dict[str, Any]], **options: Any) -> TrainSet:
    return trainset.load([synthetic.write(folder / "rows.jsonl", rows)], Taxonomy.load(), **options)


def _other(row: dict[str, Any]) -> str:
    return "complex" if row["label"] == "simple" else "simple"


def _texts(found: TrainSet) -> dict[str, set[str]]:
    return {part: set(table.texts) for part, table in found.parts.items()}


def test_parts_share_no_group_and_certify_has_one_row_of_each(tmp_path: Path) -> None:
    rows = synthetic.rows(300)
    for i, row in enumerate(rows):
        row["group"] = f"chat {i // 3}"
    found = _load(tmp_path, rows)
    groups = {part: set(table.groups) for part, table in found.parts.items()}
    assert not groups["fit"] & groups["calibrate"]
    assert not (groups["fit"] | groups["calibrate"]) & groups["certify"]
    assert len(found.parts["certify"].examples) == len(groups["certify"])
    assert found.record["groups"] == 100


def test_counts_are_recorded_and_the_fingerprint_is_of_texts_and_labels(tmp_path: Path) -> None:
    rows = synthetic.rows(100)
    found = _load(tmp_path, [*rows, rows[0], rows[1] | {"text": rows[1]["text"].upper()}])
    assert found.record["files"] == {"rows.jsonl": 102}
    assert found.record["duplicates"] == {"exact": 2, "near": 0, "overlap": 0}
    assert sum(found.record["rows"].values()) == sum(found.record["labels"].values()) == 100
    assert found.notes == ("left out 2 exact and 0 near duplicates",)
    other = _load(
        tmp_path, [*rows[:99], rows[99] | {"label": "complex" if rows[99]["label"] == "simple" else "simple"}]
    )
    assert other.record["fingerprint"] != found.record["fingerprint"]
    assert not any(row["text"] in json.dumps(dict(found.record)) for row in rows)


def test_a_row_keeps_its_part_when_rows_are_added(tmp_path: Path) -> None:
    rows = synthetic.rows(200)
    before, after = _texts(_load(tmp_path, rows[:120])), _texts(_load(tmp_path, rows))
    assert all(before[part] <= after[part] for part in ("fit", "calibrate", "certify"))


def test_contradicting_duplicates_are_named_and_stay_in_one_part(tmp_path: Path) -> None:
    rows = synthetic.rows(200)
    flipped = [row | {"label": _other(row)} for row in rows[:2]]
    found = _load(tmp_path, [*rows, *flipped])
    (note,) = found.notes
    path = tmp_path / "rows.jsonl"
    assert note.startswith("2 requests stand there again with another label: ")
    assert f"{path}, line 201 and {path}, line 1" in note
    assert found.record["contradictions"] == 2
    for row in rows[:2]:
        assert sum(row["text"] in texts for texts in _texts(found).values()) == 1


def test_rows_that_are_held_out_are_left_out_and_named(tmp_path: Path) -> None:
    rows, test = synthetic.rows(200), synthetic.rows(20, seed=1)
    path = synthetic.write(tmp_path / "test.jsonl", test)
    shouted = test[5] | {"label": _other(test[5]), "text": test[5]["text"].upper()}
    found = _load(tmp_path, [*rows, test[3], shouted, rows[0]], test=[path])
    assert found.test is not None
    assert len(found.test.examples) == 20
    assert found.record["duplicates"] == {"exact": 1, "near": 0, "overlap": 2}
    what = "left out 2 rows that are held out in --test or --certify-on: "
    assert found.notes[1].startswith(f"{what}{tmp_path / 'rows.jsonl'}, line 201")
    held_out = set(found.test.texts)
    assert not any(texts & held_out for texts in _texts(found).values())


def test_what_a_part_has_too_many_of_goes_to_fit_by_whole_groups(tmp_path: Path) -> None:
    rows = synthetic.rows(400)
    for i, row in enumerate(rows):
        row["group"] = f"chat {i // 2}"
    free, found = _load(tmp_path, rows), _load(tmp_path, rows, most={"certify": 30, "calibrate": 11})
    sizes = {part: len(table.examples) for part, table in found.parts.items()}
    assert sizes == {"fit": 400 - 60 - 12, "calibrate": 12, "certify": 30}
    assert all(_texts(found)[part] < _texts(free)[part] for part in ("calibrate", "certify"))
    groups = [set(table.groups) for table in found.parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 200


def test_rows_to_certify_on_are_the_certify_part(tmp_path: Path) -> None:
    rows, sample = synthetic.rows(200), synthetic.rows(50, seed=1)
    for i, row in enumerate(sample):
        row["group"] = f"chat {i // 2}"
    path = synthetic.write(tmp_path / "sample.jsonl", sample)
    found = _load(tmp_path, rows, certify_on=[path])
    assert found.parts["certify"].texts == [row["text"] for row in sample[::2]]
    assert len(found.parts["fit"].examples) + len(found.parts["calibrate"].examples) == 200
    assert len(found.parts["fit"].examples) > 150


def test_novel_rows_are_split_like_others_and_have_no_label(tmp_path: Path) -> None:
    rows = synthetic.rows(200) + [{"text": f"zzz {chr(97 + i)} qqq", "label": "oos"} for i in range(20)]
    found = _load(tmp_path, rows, novel_label="oos")
    assert found.record["novel"] == 20
    assert sum(len(table.novel.examples) for table in found.parts.values()) == 20
    assert all((table.known.truth >= 0).all() for table in found.parts.values())


def test_labels_can_be_those_of_the_rows(tmp_path: Path) -> None:
    rows = [{"text": f"{word} number {i}", "label": word} for i, word in enumerate(["cat", "dog", "cow"] * 20)]
    path = synthetic.write(tmp_path / "rows.jsonl", rows)
    test = synthetic.write(tmp_path / "test.jsonl", [{"text": "bird", "label": "bird"}])
    found = trainset.load([path], None)
    assert found.taxonomy.names == ("cat", "cow", "dog")
    assert not found.taxonomy.ordered
    with pytest.raises(DataError, match="'bird' is not a label") as error:
        trainset.load([path], None, test=[test])
    assert (error.value.file, error.value.line) == (str(test), 1)


@pytest.mark.parametrize(
    ("rows", "message", "line"),
    [
        ([], "no rows", 0),
        ([{"text": f"row {chr(97 + i)}", "label": "simple"} for i in range(20)], "every row is labelled 'simple'", 20),
        ([{"text": "same", "label": "simple"}] * 40 + [{"text": "other", "label": "complex"}], "too few rows: 2", 41),
        ([{"text": "one", "label": "simple"}, {"text": "two", "label": "complex"}], "too few rows: 2", 2),
        ([*synthetic.rows(30), {"text": "x", "label": "hard"}], "'hard' is not a label", 31),
        ([*synthetic.rows(30), {"text": "x", "label": "simple", "weight": float("nan")}], "`weight` must be", 31),
    ],
)
def test_bad_data_gets_a_message_with_file_and_line(
    tmp_path: Path, rows: list[dict[str, Any]], message: str, line: int
) -> None:
    with pytest.raises(DataError, match=message) as error:
        _load(tmp_path, rows)
    assert error.value.file == str(tmp_path / "rows.jsonl")
    assert error.value.line == line
    assert error.value.next_step


def test_everything_held_out_leaves_nothing_to_learn_from(tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "rows.jsonl", synthetic.rows(50))
    with pytest.raises(DataError, match="too few rows: 0"):
        trainset.load([path], Taxonomy.load(), test=[path])


def test_a_table_gives_its_columns(tmp_path: Path) -> None:
    table = _load(tmp_path, [row | {"weight": 2} for row in synthetic.rows(50)]).parts["fit"]
    n = len(table.examples)
    assert table.signals.shape == (n, 21)
    assert table.signals.dtype == table.weights.dtype == np.float32
    assert table.weights.tolist() == [2.0] * n
    assert table.take(np.array([1, 0])).texts == table.texts[1::-1]


def test_rows_that_the_encoder_knows_teach_and_do_nothing_else(tmp_path: Path) -> None:
    rows = synthetic.rows(800)
    for i, row in enumerate(rows[:4]):
        row["group"] = f"chat {i // 2}"
    taught = [rows[0], *rows[4:200]]
    found = _load(tmp_path, rows, learnt=overlap.remember(row["text"] for row in taught))
    texts, known = _texts(found), {row["text"] for row in taught} | {rows[1]["text"]}  # of one conversation
    assert known <= texts["fit"]
    assert not known & (texts["calibrate"] | texts["certify"])
    assert len(texts["certify"]) > 100
    assert not known & set(found.compared.texts)
    assert set(found.compared.texts) | known == texts["fit"]
    assert found.record["known_to_encoder"] == 198
    assert any(note.startswith("198 rows are known to the encoder") for note in found.notes)


def test_where_the_encoder_knows_nearly_all_rows_they_choose_c_all_the_same(tmp_path: Path) -> None:
    rows = synthetic.rows(100)
    found = _load(tmp_path, rows, learnt=overlap.remember(row["text"] for row in rows[2:]))
    assert found.compared is found.parts["fit"]


def test_held_out_rows_that_the_encoder_knows_are_left_out(tmp_path: Path) -> None:
    rows, held = synthetic.rows(100), synthetic.rows(20, seed=9)
    test = synthetic.write(tmp_path / "test.jsonl", held)
    learnt = overlap.remember(row["text"] for row in held[:15])
    found = _load(tmp_path, rows, test=[test], learnt=learnt)
    assert found.test is not None
    assert found.test.texts == [row["text"] for row in held[15:]]
    certified = _load(tmp_path, rows, certify_on=[test], learnt=learnt)
    assert certified.parts["certify"].texts == [row["text"] for row in held[15:]]
    with pytest.raises(DataError, match="20 rows, all in the training data of the encoder") as error:
        _load(tmp_path, rows, test=[test], learnt=overlap.remember(row["text"] for row in held))
    assert (error.value.file, "--encoder minilm" in error.value.next_step) == (str(test), True)
