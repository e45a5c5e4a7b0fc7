"""Labels from outcomes: the cheapest tier that did the job, whatever the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter import cli
from prerouter.errors import ConfigError, DataError
from prerouter.examples import read_examples
from prerouter.outcomes import Rules, label_outcomes
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

COMPLEXITY, TIERS = Taxonomy.load(), TierTable.load()
LABELS = {"haiku": "simple", "sonnet": "moderate", "opus": "complex"}
some_scores = st.dictionaries(st.sampled_from(sorted(LABELS)), st.floats(0, 1), min_size=1)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rules(**how: Any) -> Rules:
    return Rules.load(COMPLEXITY, TIERS, **how)


@given(some_scores, st.floats(0, 1))
def test_the_label_is_of_the_cheapest_tier_that_was_good_enough(scores: dict[str, float], threshold: float) -> None:
    enough = [tier for tier in ("haiku", "sonnet", "opus") if scores.get(tier, -1) >= threshold]
    assert rules(threshold=threshold).label(scores) == (LABELS[enough[0]] if enough else None)
    assert rules(threshold=threshold, none_enough="top").label(scores) == (LABELS[enough[0]] if enough else "complex")


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ({"haiku": 1, "sonnet": 1, "opus": 1}, "simple"),  # a tie is the cheaper one's
        ({"haiku": 0, "sonnet": 1, "opus": 1}, "moderate"),
        ({"haiku": 1, "sonnet": 0, "opus": 0}, "simple"),  # that stronger tiers failed changes nothing
        ({"haiku": False, "opus": True}, "complex"),
        ({"haiku": 0.5}, "simple"),
        ({"haiku": 0, "sonnet": 0, "opus": 0}, None),
    ],
)
def test_examples(scores: dict[str, float], label: str | None) -> None:
    assert rules().label(scores) == label


def test_rows_are_kept_whole_in_order_and_can_be_trained_on(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "2 + 2?", "scores": {"haiku": 1, "opus": 1}, "mine": {"x": [1]}},
        {"id": "b", "messages": [{"role": "user", "content": "Prove it."}], "scores": {"haiku": 0, "opus": 1}},
        {"id": "c", "text": "unsolved", "scores": {"haiku": 0, "opus": 0}},
        {"id": "d", "text": "with a gap", "scores": {"haiku": 0, "sonnet": None, "opus": 1}},
    ]
    counts = label_outcomes([write_rows(tmp_path / "in.jsonl", rows)], tmp_path / "out.jsonl")
    out = read_rows(tmp_path / "out.jsonl")
    assert [(row["id"], row["label"]) for row in out] == [("a", "simple"), ("b", "complex"), ("d", "complex")]
    assert out[0]["mine"] == {"x": [1]}
    assert {row["labelled_by"] for row in out} == {"outcomes"}
    assert (counts.rows, counts.none_enough, counts.untried, counts.upsets) == (4, 1, 2, 0)
    examples = read_examples([tmp_path / "out.jsonl"], COMPLEXITY)
    assert [example.label for example in examples] == ["simple", "complex", "complex"]
    assert {example.prompt_id for example in examples} == {rules().id}


def test_the_id_of_the_rules_changes_with_what_a_label_means() -> None:
    assert len({rules().id, rules(threshold=0.7).id, rules(none_enough="top").id}) == 3


def test_a_stronger_tier_that_did_worse_is_counted_as_noise(tmp_path: Path) -> None:
    rows = [{"text": "x", "scores": scores} for scores in ({"haiku": 1, "sonnet": 0}, {"haiku": 0, "sonnet": 1})]
    assert label_outcomes([write_rows(tmp_path / "in.jsonl", rows)], tmp_path / "out.jsonl").upsets == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "`scores` is missing"),
        ({"text": "x", "scores": {}}, "`scores` is missing"),
        ({"text": "x", "scores": {"haiku": None}}, "`scores` is missing"),
        ({"text": "x", "scores": [1, 0]}, "`scores` is missing"),
        ({"text": "x", "scores": {"hiaku": 1}}, "did you mean 'haiku'"),
        ({"text": "x", "scores": {"haiku": "good"}}, "must be a number"),
        ({"text": "x", "scores": {"haiku": float("nan")}}, "must be a number"),
        ({"text": "x", "scores": {"haiku": 7}}, "--threshold"),
        ({"scores": {"haiku": 1}}, "neither `text` nor `messages`"),
    ],
)
def test_a_broken_row_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "fine", "scores": {"haiku": 1}}, row])
    with pytest.raises(DataError, match="line 2") as caught:
        label_outcomes([path], tmp_path / "out.jsonl")
    assert said in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_other_scales_need_a_threshold(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "x", "scores": {"haiku": 6, "sonnet": 8.5, "opus": 9}}])
    label_outcomes([path], tmp_path / "out.jsonl", threshold=8)
    assert read_rows(tmp_path / "out.jsonl")[0]["label"] == "moderate"


def test_no_label_at_all_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "x", "scores": {"haiku": 0.2}}])
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(DataError, match="lower --threshold"):
        label_outcomes([path], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_tiers_must_tell_labels_apart() -> None:
    with pytest.raises(ConfigError, match="no tiers"):
        Rules.load(Taxonomy.inferred(["a", "b"]), TIERS)
    labels = [label | {"tier": "haiku"} for label in COMPLEXITY.to_dict()["labels"]]
    same = Taxonomy.from_dict(COMPLEXITY.to_dict() | {"labels": labels})
    with pytest.raises(ConfigError, match="several labels go to tier 'haiku'"):
        Rules.load(same, TIERS)
    with pytest.raises(ConfigError, match="threshold"):
        rules(threshold=float("nan"))


def test_the_command_writes_rows_and_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [{"text": str(i), "scores": {"haiku": i % 2, "sonnet": 1}} for i in range(10)]
    path, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert cli.main(["label", "--from-outcomes", str(path), "-o", str(out), "--json"]) == 0
    printed, said = capsys.readouterr()
    found = json.loads(printed)
    assert (found["rows"], found["labelled"], found["failed"], found["cost_usd"]) == (10, 10, 0, 0.0)
    assert found["distribution"] == {"moderate": 5, "simple": 5}
    assert "10 rows: " in said
    assert len(read_rows(out)) == 10


def test_the_command_keeps_to_the_contract_when_rows_are_broken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "x", "scores": {"gpt": 1}}])
    assert cli.main(["label", "--from-outcomes", str(path), "-o", str(tmp_path / "o"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["where"].endswith("in.jsonl, line 1")
