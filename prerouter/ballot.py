"""Votes: the same question several times with the labels in another order, and what the answers come to."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prerouter.journal import Answer
from prerouter.prompt import Prompt
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import Model


@dataclass(frozen=True, slots=True)
class Ballot:
    """Who is asked and how often. prompts: one per vote; all count as the first one's id.

    second: the prompt of a stronger labeller, which settles split votes and requests that the first refused.
    """

    taxonomy: Taxonomy
    prompts: tuple[Prompt, ...]
    second: Prompt | None = None

    @classmethod
    def of(cls, taxonomy: Taxonomy, model: Model, votes: int, escalate_to: Model | None = None) -> Ballot:
        """The ballot of `votes` questions to `model`."""
        prompts = tuple(Prompt.load(turned(taxonomy, vote), model) for vote in range(votes))
        return cls(taxonomy, prompts, Prompt.load(taxonomy, escalate_to) if escalate_to else None)

    @property
    def id(self) -> str:
        """The prompt_id of the answers."""
        return self.prompts[0].id

    def prompt(self, prompt_id: str, vote: int) -> Prompt:
        """The prompt of a question in the journal."""
        return self.second if self.second and prompt_id == self.second.id else self.prompts[vote]

    def knows(self, prompt_id: str, vote: int) -> bool:
        """Whether this ballot asks such a question."""
        if self.second and prompt_id == self.second.id:
            return vote == 0
        return prompt_id == self.id and vote < len(self.prompts)

    def result(self, answers: Sequence[Answer]) -> dict[str, Any] | None:
        """The label fields of a row from the answers about its request; None while votes are missing."""
        said = [a for a in answers if a.prompt == self.id and a.vote < len(self.prompts) and a.label]
        settled = [a for a in answers if self.second and a.prompt == self.second.id and a.label]
        votes = Counter(str(a.label) for a in said)
        if settled and (len(votes) != 1 or len(said) < len(self.prompts)):
            return self._fields(settled[0], str(settled[0].label), votes, settled[0].confidence)
        if not said or len(said) < len(self.prompts):
            return None
        label = self._winner(said, votes)
        last = max(said, key=lambda a: a.at)
        if len(self.prompts) == 1:
            return self._fields(last, label, votes, said[0].confidence)
        stated = [answer.confidence for answer in said if answer.label == label]
        mean = round(sum(stated) / len(stated), 6)  # with the share, what `calibration` learns from
        return self._fields(last, label, votes, votes[label] / len(said)) | {"stated": mean}

    def _winner(self, said: Sequence[Answer], votes: Counter[str]) -> str:
        """Most votes; of equals the surest in sum; of these the label to take when torn, else the strongest."""
        sure = Counter[str]()
        for answer in said:
            sure[str(answer.label)] += round(answer.confidence * 1e6)  # whole numbers: sums that do not depend on order
        names = self.taxonomy.names

        def rank(label: str) -> tuple[int, int, bool, int]:
            return votes[label], sure[label], label == self.taxonomy.torn, names.index(label)

        return max(votes, key=rank)

    def _fields(self, by: Answer, label: str, votes: Counter[str], confidence: float) -> dict[str, Any]:
        prompt = self.prompt(by.prompt, by.vote)
        return {
            "label": label,
            "votes": dict(votes) or {label: 1},
            "confidence": round(confidence, 6),
            "labelled_by": prompt.model.id,
            "prompt_id": by.prompt,
            "labelled_at": datetime.datetime.fromtimestamp(by.at, datetime.UTC).isoformat(timespec="seconds"),
        }


def turned(taxonomy: Taxonomy, vote: int) -> Taxonomy:
    """`taxonomy` with its labels in another order for each vote.

    Rotations, then rotations backwards: in as many votes as there are labels each label stands once in each place, so
    a liking of the labeller's for the first or the last one cancels out.
    """
    n = len(taxonomy.labels)
    labels = taxonomy.labels[::-1] if vote // n % 2 else taxonomy.labels
    shift = vote % n
    return replace(taxonomy, labels=labels[shift:] + labels[:shift]) if vote else taxonomy
