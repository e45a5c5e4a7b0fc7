"""Votes: every label in every place, and one result whatever the order of the answers."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.ballot import Ballot, turned
from prerouter.journal import Answer
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

TIERS, TAXONOMY = TierTable.load(), Taxonomy.load()
HAIKU, SONNET = TIERS.model("claude-haiku-5-5"), TIERS.model("claude-sonnet-5-5")
THREE = Ballot.of(TAXONOMY, HAIKU, 3, SONNET)
NAMES = st.sampled_from(TAXONOMY.names)


def said(label: str | None, vote: int = 0, confidence: float = 0.5, ballot: Ballot = THREE, at: float = 1.0) -> Answer:
    return Answer(1, ballot.id, vote, label, confidence, None if label else "refused", True, 1, at)


def second(label: str | None) -> Answer:
    assert THREE.second
    return Answer(1, THREE.second.id, 0, label, 0.7, None, True, 1, 2.0)


def test_each_label_stands_once_in_each_place() -> None:
    orders = [turned(TAXONOMY, vote).names for vote in range(3)]
    assert [set(column) for column in zip(*orders, strict=True)] == [set(TAXONOMY.names)] * 3
    assert len({turned(TAXONOMY, vote).names for vote in range(6)}) == 6


def test_each_vote_has_a_prompt_of_its_own_with_the_same_labels() -> None:
    enums = [prompt.schema["properties"]["label"]["enum"] for prompt in THREE.prompts]
    assert len({tuple(enum) for enum in enums}) == 3
    assert {frozenset(enum) for enum in enums} == {frozenset(TAXONOMY.names)}
    assert Ballot.of(TAXONOMY, HAIKU, 1).id == THREE.id


def test_one_vote_keeps_the_stated_confidence() -> None:
    one = Ballot.of(TAXONOMY, HAIKU, 1)
    fields = one.result([said("complex", confidence=0.42, ballot=one)])
    assert fields
    assert (fields["label"], fields["votes"], fields["confidence"]) == ("complex", {"complex": 1}, 0.42)


def test_no_result_while_votes_are_missing() -> None:
    assert THREE.result([]) is None
    assert THREE.result([said("simple", 0), said("simple", 1)]) is None
    assert THREE.result([said("simple", 0), said("simple", 1), said(None, 2)]) is None


@given(st.lists(st.tuples(NAMES, st.floats(0, 1)), min_size=3, max_size=3))
def test_the_result_does_not_depend_on_the_order_of_answers(votes: list[tuple[str, float]]) -> None:
    results = {
        (fields["label"], tuple(sorted(fields["votes"].items())), fields["confidence"])
        for order in permutations(range(3))
        if (fields := THREE.result([said(votes[i][0], i, votes[i][1]) for i in order]))
    }
    (result,) = results
    counts = Counter(label for label, _ in votes)
    assert counts[result[0]] == max(counts.values())
    assert result[2] == pytest.approx(counts[result[0]] / 3, abs=1e-6)


def test_of_equals_the_surest_wins_then_the_label_to_take_when_torn() -> None:
    def winner(*confidences: float) -> str:
        votes = [said(name, i, c) for i, (name, c) in enumerate(zip(TAXONOMY.names, confidences, strict=True))]
        fields = THREE.result(votes)
        assert fields
        return str(fields["label"])

    assert winner(0.9, 0.5, 0.5) == "simple"
    assert winner(0.5, 0.5, 0.5) == TAXONOMY.torn == "moderate"


def test_the_second_labeller_settles_split_and_refused_votes_only() -> None:
    split = [said("simple", 0), said("moderate", 1), said("simple", 2)]
    fields = THREE.result([*split, second("moderate")])
    assert fields
    assert (fields["label"], fields["labelled_by"], fields["confidence"]) == ("moderate", SONNET.id, 0.7)
    assert fields["votes"] == {"simple": 2, "moderate": 1}
    refused = THREE.result([said(None, 0), said(None, 1), said(None, 2), second("simple")])
    assert refused
    assert (refused["label"], refused["votes"]) == ("simple", {"simple": 1})
    agreed = THREE.result([*(said("simple", i) for i in range(3)), second("complex")])
    assert agreed
    assert (agreed["label"], agreed["labelled_by"]) == ("simple", HAIKU.id)


def test_which_questions_are_ours() -> None:
    assert THREE.second
    assert THREE.knows(THREE.id, 2)
    assert not THREE.knows(THREE.id, 3)
    assert THREE.knows(THREE.second.id, 0)
    assert not THREE.knows("0" * 12, 0)


def test_several_votes_keep_what_their_winners_stated() -> None:
    answers = [said("complex", 0, 0.9), said("simple", 1, 0.2), said("complex", 2, 0.6)]
    fields = THREE.result([*answers, second("complex")]) or {}
    assert "stated" not in fields  # settled by the second labeller
    fields = Ballot.of(TAXONOMY, HAIKU, 3).result(answers) or {}
    assert (fields["label"], fields["stated"], fields["confidence"]) == ("complex", 0.75, 0.666667)
