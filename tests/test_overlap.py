from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter import overlap
from prerouter.errors import ModelFolderError
from prerouter.overlap import known, remember


@given(st.lists(st.text(max_size=20), max_size=30), st.lists(st.text(max_size=20), max_size=30))
def test_what_was_remembered_is_known(before: list[str], asked: list[str]) -> None:
    remembered = remember(before)
    assert known(before, remembered) == list(range(len(before)))
    assert {i for i, text in enumerate(asked) if text in before} <= set(known(asked, remembered))


def test_new_texts_are_not_known() -> None:
    remembered = remember(f"What is {i} times 7?" for i in range(2000))
    assert known([f"What is {i} times 8?" for i in range(2000)], remembered) == []


def test_case_punctuation_and_spacing_do_not_count_but_numbers_do() -> None:
    remembered = remember(["Where is order 17?", "¿?"])
    assert known(["where IS  order 17", "Where is order 18?", "¿?", "!!"], remembered) == [0, 2]


def test_of_very_many_rows_a_share_is_remembered() -> None:
    texts = [f"row {i}" for i in range(1000)]
    remembered = remember(texts, kept=500)
    assert len(base64.b64decode(remembered)) == 500 * overlap.N_BYTES
    found = known(texts, remembered)
    assert len(found) == 500
    # Of any part of the rows about half is recognised: which are kept hangs on the hash alone.
    assert 180 <= len([i for i in found if i % 2]) <= 320


def test_nothing_remembered_knows_nothing() -> None:
    assert remember([]) == ""
    assert known(["a"], "") == []


def test_no_text_can_be_read_from_it() -> None:
    secret = "the password is hunter2"
    packed = base64.b64decode(remember([secret]))
    assert packed == hashlib.sha256(secret.encode()).digest()[: overlap.N_BYTES]


@pytest.mark.parametrize("broken", ["not base64!", "AAAA", 7, None])
def test_broken_hashes_are_refused_with_the_next_step(broken: str) -> None:
    with pytest.raises(ModelFolderError, match="allow-overlap"):
        known(["a"], broken)


def test_several_memories_are_one() -> None:
    one, other = remember(["a", "b"]), remember(["b", "c"])
    assert overlap.joined([one, other]) == remember(["a", "b", "c"])
    assert overlap.joined([]) == overlap.joined(["", ""]) == ""


def test_a_model_knows_its_own_rows_and_its_encoders() -> None:
    head, encoder = remember(["of the head"]), remember(["of the encoder"])
    made = {"row_hashes": head, "encoder_hashes": encoder}
    assert known(["of the head", "of the encoder", "of neither"], overlap.of_model(made) or "") == [0, 1]
    assert overlap.of_encoders(made) == encoder
    assert overlap.of_model({}) is None


def test_where_rows_of_head_and_encoder_are_not_told_apart_all_are_the_encoders() -> None:
    assert overlap.of_encoders({"row_hashes": remember(["a"])}) == remember(["a"])
    assert overlap.of_encoders({"row_hashes": remember(["a"]), "encoder_hashes": ""}) == ""
    assert overlap.of_encoders({}) == ""
