"""The two sides of `prerouter evaluate --answers`: a taxonomy's specialists behind a Dispatch, and one prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from prerouter import text
from prerouter.comparing import KEPT, replayed
from prerouter.dispatch import AsyncDispatch
from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.judge import Judge
from prerouter.promptsize import measure
from prerouter.purse import HIDDEN_TOKENS, Purse, guessed_tokens, n_bytes
from prerouter.records import Usage
from prerouter.router import PreRouter
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import Model, cost

CALLS_A_SPECIALIST = 2  # at most, where only its model serves: one that thought without a word is asked once more
ADDED_BYTES = 2_000  # what a specialist's call has beside its files: the tool that gives back, what is told of a plan
VERDICT_TOKENS = 60  # of the classifier's answer, for the estimate
RULING_TOKENS = 300  # of the judge's, what it thinks included


@dataclass(frozen=True, slots=True)
class Roster:
    """Who answers and who judges. Make it with `load`.

    prompt: the one prompt, which `against` gets. max_tokens: of an answer, where neither request nor route says.
    """

    router: PreRouter
    against: Model
    prompt: str
    judge: Judge
    max_tokens: int

    @classmethod
    def load(
        cls,
        taxonomy: str,
        prompt: str,
        settings: Settings,
        stack: ExitStack,
        *,
        model: str | None = None,
        against: str | None = None,
        judge: str | None = None,
        max_tokens: int,
    ) -> Roster:
        """taxonomy, prompt: paths. model: model folder. The router is closed with `stack`.

        Budgets of the workspace do not count here: a cap of its own does. What a request comes to is the doing of the
        models that the taxonomy names: no other one steps in for them. Raises ConfigError, OSError, ModelFolderError.
        """
        said = _text(expanded(prompt))
        calm = replace(settings.dispatch, retries=0, fallback="off")
        settings = replace(settings, budgets=(), dispatch=calm)
        labels = _prepared(Taxonomy.load(expanded(taxonomy)), max_tokens)
        if any(label.tier is None for label in labels.labels):
            step = "give every label of the taxonomy a tier"
            raise ConfigError("labels without a tier have no specialist", where=taxonomy, next_step=step)
        router = stack.enter_context(PreRouter.load(model, taxonomy=labels, settings=settings))
        table = router.tiers
        strongest = max((str(label.tier) for label in labels.labels), key=table.rank)
        judging = table.model(judge or table.first_model(table.tiers[-1].name))
        return cls(router, table.model(against or table.first_model(strongest)), said, Judge.load(judging), max_tokens)

    @property
    def id(self) -> str:
        """12 hex characters of taxonomy, specialists, prompt, model and judge: other pairs are another comparison."""
        taxonomy = self.router.taxonomy
        said = [taxonomy.id, _routes(taxonomy), self.prompt, self.against.id, self.judge.id, self.max_tokens]
        said.append([self.router.tiers.first_model(str(label.tier)) for label in taxonomy.labels])
        return hashlib.sha256(json.dumps(said, default=repr, sort_keys=True).encode()).hexdigest()[:12]

    def dispatch(self) -> AsyncDispatch:
        """The specialists. Nothing is logged, and nothing is put into a person's queue."""
        nobody: dict[str, Any] = {"on_human": _nobody} if self.router.taxonomy.handoff else {}
        return AsyncDispatch(router=self.router, **nobody)

    def to_specialists(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What of a request is sent to Dispatch. Without a limit of the request's own, its route's holds."""
        body = {key: request[key] for key in KEPT if request.get(key) is not None}
        return body if self.router.taxonomy.handoff else {"max_tokens": self.max_tokens} | body

    def to_one_prompt(self, request: Mapping[str, Any], model: Model) -> dict[str, Any] | None:
        """The body with which `model` answers under the one prompt; None where it takes no such request.

        As a specialist's, the prompt comes first and is marked for the cache where the model's minimum is reached.
        """
        given = request.get("system")
        own = [{"type": "text", "text": given}] if isinstance(given, str) and given.strip() else given
        block: dict[str, Any] = {"type": "text", "text": self.prompt}
        before = measure({"tools": request.get("tools"), "system": self.prompt})
        if '"cache_control"' not in json.dumps(request, default=str) and (
            before.prompt_tokens(model) >= model.min_cacheable_tokens
        ):
            block["cache_control"] = {"type": "ephemeral"}
        system = [block, *(own if isinstance(own, list) else [])]
        return replayed({"max_tokens": self.max_tokens, **request, "system": system}, model)

    def call_usd(self, request: Mapping[str, Any]) -> Decimal:
        """US dollars that one call of a specialist costs at most: no token is shorter than a byte."""
        size = len(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")) + ADDED_BYTES + HIDDEN_TOKENS
        return max(self._call_usd(label.name, size, request) for label in self.router.taxonomy.labels)

    def most_tokens(self, request: Mapping[str, Any]) -> int:
        """Tokens of the specialists' answer at most."""
        handoff = self.router.taxonomy.handoff
        longest = max(self._limit(name, request) for name in self.router.taxonomy.names)
        return longest * (handoff.plan_steps if handoff and handoff.plan else 1)

    def most_usd(self, request: Mapping[str, Any], purse: Purse) -> Decimal:
        """US dollars that the specialists' answer costs at most: classification, one that gives it back, a plan."""
        handoff, prompt = self.router.taxonomy.handoff, self.router.classifier.prompt
        asked = prompt.body(text.render(request, version=self.router.local.text_version))
        models = [prompt.model] * (3 if handoff else 1)  # two levels, and parameters
        if handoff:
            models += [self.router.tiers.model(handoff.stronger_classifier or self.against.id)] * 2
        asking = sum((purse.upper(model, n_bytes(asked), asked["max_tokens"]) for model in models), Decimal(0))
        specialists = max(2, handoff.plan_steps if handoff.plan else 0) if handoff else 1
        return asking + specialists * CALLS_A_SPECIALIST * self.call_usd(request)

    def guessed_usd(self, request: Mapping[str, Any]) -> Decimal:
        """US dollars that a request costs on both sides with its ruling, more or less: routes alike frequent."""
        said, prompt = len(json.dumps(request)), self.router.classifier.prompt
        n = self.router.settings.costs.answer_tokens
        asked = n_bytes(prompt.body(text.render(request, version=self.router.local.text_version)))
        labels = self.router.taxonomy.labels
        routes = [(self._model(label.name), said + self._static(label.name)) for label in labels]
        special = sum((_guess(model, size, n) for model, size in routes), Decimal(0)) / len(labels)
        ruling = len(self.judge.system) + said + 2 * n * 4
        return (
            special
            + _guess(prompt.model, asked, VERDICT_TOKENS)
            + _guess(self.against, said + len(self.prompt), n)
            + _guess(self.judge.model, ruling, RULING_TOKENS)
        )

    def _call_usd(self, label: str, size: int, request: Mapping[str, Any]) -> Decimal:
        handoff, limit = self.router.taxonomy.handoff, self._limit(label, request)
        earlier = limit * handoff.plan_steps if handoff and handoff.plan else 0  # a step is told what came before
        size += self._static(label) + earlier
        return cost(self._model(label), Usage(output_tokens=limit, cache_write_1h_tokens=size))

    def _limit(self, label: str, request: Mapping[str, Any]) -> int:
        handoff = self.router.taxonomy.handoff
        own = handoff.routes[label].max_tokens if handoff else None
        return int(request.get("max_tokens") or own or self.max_tokens)

    def _static(self, label: str) -> int:
        """Bytes that a route's specialist puts before a request, more or less: what its files hold."""
        handoff = self.router.taxonomy.handoff
        if handoff is None:
            return 0
        route = handoff.routes[label]
        said = [route.system, route.examples, [dict(tool) for tool in route.tools]]
        return len(json.dumps(said).encode()) + 60 * len(route.examples)

    def _model(self, label: str) -> Model:
        return self.router.tiers.model(self.router.tiers.first_model(str(self.router.taxonomy.tier_of(label))))


def _prepared(taxonomy: Taxonomy, max_tokens: int) -> Taxonomy:
    """With a limit for every route; requests for people go to a callback instead of into their queue."""
    handoff = taxonomy.handoff
    if handoff is None:
        return taxonomy
    routes = {
        name: replace(route, max_tokens=route.max_tokens or max_tokens, handoff=route.handoff and "callback")
        for name, route in handoff.routes.items()
    }
    return replace(taxonomy, handoff=replace(handoff, routes=routes))


def _routes(taxonomy: Taxonomy) -> Any:
    handoff = taxonomy.handoff
    if handoff is None:
        return None
    settings = [handoff.on_low_confidence, handoff.stronger_classifier, handoff.plan, handoff.plan_steps]
    return [*settings, str(handoff.plan_usd), {name: repr(route) for name, route in handoff.routes.items()}]


def _nobody(case: object) -> None:
    """A person who is not asked: the request is left out."""


def _guess(model: Model, sent_bytes: int, answer_tokens: int) -> Decimal:
    return cost(model, Usage(round(guessed_tokens(model, sent_bytes)), answer_tokens))


def _text(path: Path) -> str:
    try:
        said = path.read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=str(path), next_step="convert it") from error
    if not said:
        raise ConfigError("the prompt is empty", where=str(path), next_step="write what one prompt for all would say")
    return said
