"""Which model gets a request next, and with what body."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from prerouter.dispatchrecords import Why
from prerouter.errors import BudgetExceeded
from prerouter.fitting import Fitted, Misfit, fits, measure, none_fits, worst_case_usd
from prerouter.plan import Candidate, Place, first_places, next_places
from prerouter.run import Run


class Choice:
    """The models that a request may go to: the first that accepts it, then, one by one, those for when it fails."""

    def __init__(self, run: Run, tier: str) -> None:
        self._run, self._tier = run, tier
        self._misfits: list[Misfit] = []
        self._dear: list[Decimal] = []
        self._places: list[Place] | None = None
        self._chosen: Candidate | None = None
        self._next: Candidate | None = None

    @property
    def has_places(self) -> bool:
        """Whether there may be a model left to go to; cheap."""
        return self._next is not None or bool(self._left())

    @property
    def others(self) -> bool:
        """Whether there is a model left to go to."""
        if self._next is None and self._chosen is not None:
            self._next = self._following()
        return self._next is not None

    def first(self) -> Candidate:
        """The model to begin with. Raises UnsupportedRequest, RequestTooLarge, BudgetExceeded when there is none."""
        found = self.find()
        if found:
            return found
        if self._dear:
            step = f"allow at least ${min(self._dear):.6f}, or lower max_tokens"
            raise BudgetExceeded("the request may cost more than max_usd", where="max_usd", next_step=step)
        raise none_fits(self._misfits)

    def find(self) -> Candidate | None:
        """As `first`; None when there is none. A prompt that may just fit is sent where nothing fits for certain."""
        for lenient in (False, True):
            self._misfits, self._dear = [], []
            for place in self._first_places():
                self._chosen = self._fit(place, "first", lenient)
                if self._chosen:
                    return self._chosen
            if self._dear:
                break
        return None

    def next(self) -> Candidate:
        """The next model; only where there are `others`."""
        assert self.others
        assert self._next
        found, self._next = self._next, None
        return found

    def _first_places(self) -> list[Place]:
        run, table = self._run, self._run.parts.table
        only = run.fixed.id if run.fixed else run.thread[1] if run.thread else run.limits.force_model
        if only:
            tier = table.tier_of_model(only)
            return [Place(tier.name if tier else None, only)]
        places = self._living(first_places(table, self._tier, run.limits))
        standing = run.standing
        if standing and standing.model and (run.in_tool_loop or standing.bound):
            tier = table.tier_of_model(standing.model)
            places.insert(0, Place(tier.name if tier else None, standing.model))
        elif run.decision and run.mode != "shadow" and run.decision.model:  # the conversation may prefer a later one
            places.sort(key=lambda place: place.model != run.decision.model)  # type: ignore[union-attr]
        return places

    def _left(self) -> list[Place]:
        run = self._run
        if self._places is None and self._chosen and not run.fixed and not run.thread:
            fallback = run.parts.settings.dispatch.fallback
            self._places = self._living(next_places(run.parts.table, self._chosen.place, run.limits, fallback))
        return self._places or []

    def _following(self) -> Candidate | None:
        assert self._chosen
        places = self._left()
        while places:
            place = places.pop(0)
            why: Why = "next_model" if place.tier == self._chosen.place.tier else "next_tier"
            found = self._fit(place, why, False)
            if found:
                return found
        return None

    def _living(self, places: list[Place]) -> list[Place]:
        """Without the models that are dead for now; all of them when there is no other."""
        dead = self._run.parts.dead.now()
        table = self._run.parts.table
        return [place for place in places if table.model(place.model).id not in dead] or places if dead else places

    def _fit(self, place: Place, why: Why, lenient: bool) -> Candidate | None:
        run, model = self._run, self._run.parts.table.model(place.model)
        assert run.standing
        if run.fixed:
            return Candidate(place, model, Fitted(dict(run.body), (), run.size.prompt_tokens(model)), why)
        prepared = run.parts.talks.prepared(run.standing, run.body, place.model, run.specialist)
        if prepared is None:
            self._misfits.append(Misfit(place.model, "thinking", "did not make the thinking blocks of this turn"))
            return None
        body, left_out = prepared
        size = run.size
        if run.specialist:
            body = run.specialist.applied(body, model)
            size = measure(body)
        fitted = fits(body, model, size, run.config, lenient=lenient, free_sampling=run.free_sampling)
        if isinstance(fitted, Misfit):
            self._misfits.append(fitted)
            return None
        most = run.config.max_usd
        if most is not None and (worst := worst_case_usd(fitted, model)) > most:
            self._dear.append(worst)
            return None
        if left_out:
            fitted = replace(fitted, adaptations=(*left_out, *fitted.adaptations))
        return Candidate(place, model, fitted, why)
