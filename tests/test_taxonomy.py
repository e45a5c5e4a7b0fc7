"""The taxonomy: the shipped one, a team's own, and what is refused with which words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

SHIPPED = Taxonomy.load()


def _table(n_labels: int = 3, **changed: Any) -> dict[str, Any]:
    labels = [{"name": f"kind {i}", "definition": f"Requests of kind {i}."} for i in range(n_labels)]
    return {"name": "kinds", "ordered": False, "default": "kind 0", "labels": labels} | changed


def _with_label(**changed: Any) -> dict[str, Any]:
    table = _table()
    table["labels"][1] |= changed
    return table


def _error(table: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Taxonomy.from_dict(table, "mine.toml")
    assert caught.value.where.startswith("mine.toml")
    assert caught.value.next_step
    return caught.value


# ---- the shipped taxonomy ----------------------------------------------------------------------------------------


def test_shipped_labels_order_tiers_and_default() -> None:
    assert SHIPPED.names == ("simple", "moderate", "complex")
    assert SHIPPED.ordered
    assert [SHIPPED.tier_of(name) for name in SHIPPED.names] == ["haiku", "sonnet", "opus"]
    assert (SHIPPED.default, SHIPPED.torn) == ("moderate", "moderate")
    assert SHIPPED.warnings == ()
    assert SHIPPED.askable
    assert SHIPPED.has_tiers
    SHIPPED.check_tiers(TierTable.load().rank)


@pytest.mark.parametrize("label", SHIPPED.labels, ids=lambda label: label.name)
def test_every_shipped_label_is_explained(label: Any) -> None:
    assert label.definition.count(".") == 1  # one sentence
    assert label.definition.endswith(".")
    assert label.distinction
    assert 3 <= len(label.examples) <= 5


def test_the_shipped_texts_are_short_enough_for_a_prompt_that_is_paid_on_every_fall_through() -> None:
    texts = [t for label in SHIPPED.labels for t in (label.definition, label.distinction, *label.examples)]
    assert len(" ".join(texts).split()) <= 260  # about 350 tokens at 1.3 tokens a word


# ---- identity and round trip -------------------------------------------------------------------------------------


def test_the_id_ignores_comments_layout_and_key_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(
        'name = "t"\nordered = false\ndefault = "a"\n[[labels]]\nname = "a"\ndefinition = "The first kind."\n'
        '[[labels]]\nname = "b"\ndefinition = "B."\n'
    )
    two.write_bytes(
        b'\xef\xbb\xbf# a comment\r\ndefault = "a"\r\nordered = false\r\nname = "t"\r\nlabels = [\r\n'
        b'  {definition = """The first\r\n   kind.""", name = "a"},\r\n  {name = "b", definition = "B."}]\r\n'
    )
    assert Taxonomy.load(one).id == Taxonomy.load(two).id
    assert Taxonomy.load(one) == Taxonomy.load(two)
    assert len(bytes.fromhex(Taxonomy.load(one).id)) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"default": "kind 1"},
        {"torn": "kind 1"},
        {"labels": _table()["labels"][::-1]},
        {"labels": _with_label(definition="Another meaning.")["labels"]},
        {"labels": _with_label(distinction="Unlike the rest.")["labels"]},
        {"labels": _with_label(examples=["one"])["labels"]},
        {"labels": [label | {"tier": "haiku"} for label in _table()["labels"]]},
    ],
)
def test_the_id_changes_with_every_part_of_the_content(changed: dict[str, Any]) -> None:
    assert Taxonomy.from_dict(_table() | changed).id != Taxonomy.from_dict(_table()).id


@pytest.mark.parametrize(
    "taxonomy",
    [SHIPPED, Taxonomy.from_dict(_table()), Taxonomy.inferred(str(n) for n in range(99))],
    ids=lambda t: t.name,
)
def test_to_dict_reads_back_as_the_same_taxonomy(taxonomy: Taxonomy) -> None:
    again = Taxonomy.from_dict(taxonomy.to_dict(), "model.json")
    assert again == taxonomy
    assert again.id == taxonomy.id


def test_reading_does_not_change_what_was_given() -> None:
    table = _table(torn="kind 1")
    before = copy.deepcopy(table)
    Taxonomy.from_dict(table)
    assert table == before


# ---- lookups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["complex", "Complex", "COMPLEX", " complex\n"])
def test_labels_are_matched_without_case(answer: str) -> None:
    assert SHIPPED.match(answer) == "complex"
    assert SHIPPED.index(answer) == 2
    assert SHIPPED.label(answer).name == "complex"


def test_an_unknown_label_is_none_or_an_error_with_the_nearest() -> None:
    assert SHIPPED.match("hard") is None
    with pytest.raises(ConfigError, match=r"unknown label 'complicated'.*did you mean 'complex'"):
        SHIPPED.index("complicated")
    with pytest.raises(ConfigError, match="known: complex, moderate, simple"):
        SHIPPED.tier_of("?")


# ---- a team's own ------------------------------------------------------------------------------------------------


def test_labels_without_tiers_are_legal_when_unordered() -> None:
    taxonomy = Taxonomy.from_dict(_table())
    assert taxonomy.tier_of("kind 1") is None
    assert not taxonomy.has_tiers
    taxonomy.check_tiers(TierTable.load().rank)


@pytest.mark.parametrize(("n", "n_warnings"), [(2, 0), (9, 0), (10, 1), (12, 1)])
def test_ten_labels_or_more_are_a_warning(n: int, n_warnings: int) -> None:
    taxonomy = Taxonomy.from_dict(_table(n), "mine.toml")
    assert len(taxonomy.warnings) == n_warnings
    assert all(f"{n} labels (mine.toml)" in warning and "accuracy" in warning for warning in taxonomy.warnings)


def test_tiers_must_not_get_weaker_in_an_ordered_taxonomy() -> None:
    rank = TierTable.load().rank
    labels = [
        label | {"tier": tier} for label, tier in zip(_table()["labels"], ("haiku", "opus", "sonnet"), strict=True)
    ]
    Taxonomy.from_dict(_table(labels=labels)).check_tiers(rank)  # unordered: any tiers
    with pytest.raises(ConfigError, match="'kind 2' is above 'kind 1' but its tier 'sonnet' is weaker") as caught:
        Taxonomy.from_dict(_table(labels=labels, ordered=True), "mine.toml").check_tiers(rank)
    assert "mine.toml" in caught.value.where
    labels[2]["tier"] = "opus"  # two labels may share a tier
    Taxonomy.from_dict(_table(labels=labels, ordered=True)).check_tiers(rank)
    labels[2]["tier"] = "opsu"
    with pytest.raises(ConfigError, match=r"unknown tier 'opsu'.*haiku, sonnet, opus"):
        Taxonomy.from_dict(_table(labels=labels)).check_tiers(rank)


REFUSED: list[tuple[Any, str, str]] = [
    (_table(defualt="kind 0"), "unknown key defualt", "did you mean 'default'?"),
    (_with_label(defintion="x"), "unknown key labels[2].defintion", "did you mean 'definition'?"),
    (_table(13), "13 labels are more than 12", "infer"),
    (_table(1), "at least 2 labels, not 1", "add one"),
    (_table(labels=[]), "at least 2 labels, not 0", "add one"),
    (_with_label(name="kind 0"), "two labels are the same: 'kind 0' and 'kind 0'", "rename one"),
    (_with_label(name="KIND 0"), "two labels are the same: 'kind 0' and 'KIND 0'", "without case"),
    (_with_label(name="kind  0\n"), "two labels are the same", "rename one"),
    (_with_label(name=" "), "labels[2].name must be text that is not empty", "change"),
    (_with_label(name=7), "labels[2].name must be text", "change"),
    (_with_label(name="a\x07b"), "unprintable", "rename"),
    (_with_label(definition="half \ud800"), "labels[2].definition must be text", "change"),
    (_with_label(definition=""), "labels[2].definition must be text that is not empty", "change"),
    (_with_label(examples="one"), "labels[2].examples must be a list", "change"),
    (_with_label(examples=["one", ""]), "labels[2].examples[2] must be text that is not empty", "change"),
    (_with_label(tier="haiku"), "label 'kind 0' has no tier but other labels have one", 'tier = "sonnet"'),
    (_table(ordered=True), "label 'kind 0' has no tier but the taxonomy is ordered", 'tier = "sonnet"'),
    (_table(ordered="yes"), "ordered must be true or false, not 'yes'", "change"),
    (_table(default="kind 9"), "default = 'kind 9' is not a label", "did you mean 'kind"),
    (_table(default=""), "default must be text that is not empty", "change"),
    (_table(torn="both"), "torn = 'both' is not a label", "known: kind 0, kind 1, kind 2"),
    (_table(labels="simple"), "labels must be a list", "change"),
    (_table(labels=["simple", "hard"]), "labels[1] must be a table, not 'simple'", "mend"),
    (_table(from_data=True, ordered=True), "neither order nor tiers", "from_data"),
    (["simple"], "the content must be a table", "mend"),
]


@pytest.mark.parametrize(("table", "what", "step"), REFUSED)
def test_a_wrong_taxonomy_is_refused_with_what_where_and_next_step(table: Any, what: str, step: str) -> None:
    error = _error(table)
    assert what in error.what
    assert step in error.next_step


@pytest.mark.parametrize("key", ["name", "ordered", "default", "labels"])
def test_what_is_missing_is_named(key: str) -> None:
    table = _table()
    del table[key]
    assert _error(table).what == f"{key} is missing"


@pytest.mark.parametrize(
    ("key", "what"),
    [("name", "labels[2].name is missing"), ("definition", "label 'kind 1' has no definition")],
)
def test_what_a_label_lacks_is_named(key: str, what: str) -> None:
    table = _table()
    del table["labels"][1][key]
    assert _error(table).what == what


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name = "x"\nordered = maybe\n', "line 2"),
        (b'name = "x\xff"\n', "cannot read the taxonomy"),
        (b"", "name is missing"),
    ],
)
def test_a_broken_file_names_file_and_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        Taxonomy.load(file)
    assert caught.value.where == str(file)


def test_a_missing_file_and_a_folder_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file of the taxonomy"):
        Taxonomy.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"no such file of the taxonomy .*taxonomy\.toml"):
        Taxonomy.load(tmp_path)


ANY_TEXT = st.text(st.characters(), max_size=5)  # lone surrogates too
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["name", "ordered", "default", "torn", "labels", "from_data", "x"])
label_keys = st.sampled_from(["name", "definition", "distinction", "examples", "tier", "x"])


@given(
    st.dictionaries(keys, json_values, max_size=4),
    st.lists(st.dictionaries(label_keys, json_values, max_size=4), max_size=3),
    st.booleans(),
)
def test_any_content_is_a_taxonomy_or_a_configuration_error(
    changed: dict[str, Any], labels: list[dict[str, Any]], replace: bool
) -> None:
    table = _table() | ({"labels": labels} if replace else {}) | changed
    try:
        taxonomy = Taxonomy.from_dict(table)
    except ConfigError:
        return
    assert taxonomy.default in taxonomy.names
    assert Taxonomy.from_dict(taxonomy.to_dict()) == taxonomy


# ---- inferred ----------------------------------------------------------------------------------------------------


def test_inferred_from_data_rows_is_unordered_sorted_and_defaults_to_the_commonest() -> None:
    taxonomy = Taxonomy.inferred(["b", "c", "a", "c", "b", "c"])
    assert taxonomy.names == ("a", "b", "c")
    assert taxonomy.default == "c"
    assert not taxonomy.ordered
    assert not taxonomy.has_tiers
    assert taxonomy.id == Taxonomy.inferred(["c", "c", "a", "b"]).id


def test_inferred_has_no_limit_but_beyond_twelve_nobody_can_be_asked() -> None:
    assert Taxonomy.inferred(str(n) for n in range(12)).askable
    many = Taxonomy.inferred(str(n) for n in range(150))
    assert not many.askable
    assert len(many.names) == 150
    assert many.warnings == ()


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "A"], ["a", " "]])
def test_inferred_refuses_what_is_no_taxonomy(labels: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"at least 2 labels|the same|not empty") as caught:
        Taxonomy.inferred(labels)
    assert "the labels of the data" in caught.value.where
