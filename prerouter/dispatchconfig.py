"""`dispatch_config`: what a caller may say about one request beside its Messages body. Rules by tag say the rest.

min_tier, max_tier, force_model and priority of rules are applied by the router (`policy.Policy.limits`), which names
the rule in `adjusted_by`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from prerouter.errors import ConfigError
from prerouter.policy import matches
from prerouter.records import Priority
from prerouter.routes import Human
from prerouter.sections import Rule
from prerouter.settings import Settings
from prerouter.tables import read_table

MAX_DEADLINE_S = 86_400.0

_WHERE = "dispatch_config"
_OF_RULES = ("context_window", "max_usd", "deadline_s", "speculative", "per_step", "shadow", "handoff")


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """One request's configuration; every key may be left out.

    priority, min_tier, max_tier, force_model, tags, conversation_id: as in `router.Options`.
    context_window: "extended" leaves out models whose window is below a million tokens.
    max_usd: US dollars that prompt and max_tokens of one attempt may come to at list price.
    deadline_s: seconds in (0, 86,400] for the whole request, every attempt included; None: the setting's.
    speculative: the answer that starts while the classifier is asked; None: none ("off" unsays a rule's).
    per_step: every request is decided anew, those inside a tool loop too. shadow: decided and logged, not followed.
    handoff: a person gets the request, no model: through the queue, or the callback of `Dispatch(on_human=...)`.
    """

    priority: Priority | None = None
    context_window: Literal["standard", "extended"] = "standard"
    min_tier: str | None = None
    max_tier: str | None = None
    force_model: str | None = None
    conversation_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    max_usd: Decimal | None = None
    deadline_s: float | None = None
    speculative: Literal["cheap", "generalist", "off"] | None = None
    per_step: bool = False
    shadow: bool = False
    handoff: Human | None = None

    @classmethod
    def read(cls, value: object, settings: Settings) -> DispatchConfig:
        """The configuration in `value`, a mapping or None, with the rules that match its tags laid under its own keys.

        None as a key's value is the same as leaving the key out. Raises ConfigError for an unknown key, a wrong type
        or a value out of range; names of tiers and models are checked by the router, before anything is sent.
        """
        if value is None:
            return _DEFAULT
        if not isinstance(value, Mapping):
            what = f"dispatch_config must be a mapping, not {type(value).__name__}"
            raise ConfigError(what, where=_WHERE, next_step='such as {"priority": "cost"}')
        said = {key: item for key, item in value.items() if item is not None}
        config = read_table(cls, said, _WHERE)
        changed = _from_rules(config, said, settings.rules) if config.tags and settings.rules else {}
        if changed.get("speculative", config.speculative) == "off":
            changed["speculative"] = None
        return _checked(replace(config, **changed) if changed else config)


_DEFAULT = DispatchConfig()


def _from_rules(config: DispatchConfig, said: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, Any]:
    """What matching rules say about keys that were not said; the first one that speaks of a key wins."""
    filled: dict[str, Any] = {}
    for rule in reversed([rule for rule in rules if matches(rule, config.tags)]):
        values = {name: getattr(rule, name) for name in _OF_RULES if name not in said}
        filled |= {name: value for name, value in values.items() if value is not None}
    return filled


def _checked(config: DispatchConfig) -> DispatchConfig:
    seconds = config.deadline_s
    if seconds is not None and not 0 < seconds <= MAX_DEADLINE_S:
        where, step = f"{_WHERE}, or a rule by tag", f"choose more than 0 and at most {MAX_DEADLINE_S:,.0f} seconds"
        raise ConfigError(f"deadline_s is {seconds}", where=where, next_step=step)
    return config
