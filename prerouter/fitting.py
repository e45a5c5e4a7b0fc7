"""Whether a model accepts a body, and the body that it accepts. Pure; nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prerouter.abilities import OFF, Draft, Misfit, adapted, table
from prerouter.dispatchconfig import DispatchConfig
from prerouter.errors import RequestTooLarge, UnsupportedRequest
from prerouter.promptsize import Size, measure
from prerouter.records import Usage
from prerouter.tiers import Lifetime, Model, cost, thinking_off

__all__ = ["Fitted", "Misfit", "Size", "calmer", "fits", "measure", "none_fits", "worst_case_usd"]

EXTENDED_TOKENS = 1_000_000  # the smallest window that `context_window = "extended"` leaves


@dataclass(frozen=True, slots=True)
class Fitted:
    """A body that its model accepts, as far as the table knows.

    adaptations: what was changed beside the model's name, for people. prompt_tokens: estimated, in the model's own
    tokens. write: lifetime of the longest cache mark.
    """

    body: dict[str, Any]
    adaptations: tuple[str, ...]
    prompt_tokens: int
    write: Lifetime | None = None


def fits(
    body: Mapping[str, Any],
    model: Model,
    size: Size,
    config: DispatchConfig,
    *,
    lenient: bool = False,
    free_sampling: bool = False,
) -> Fitted | Misfit:
    """`body` for `model`, or why it cannot be. `body` stays as it is; what needs no change is shared with it.

    lenient: refuse only a prompt that is over the window for certain; else prompt and max_tokens, as estimated, have
        to be within it. free_sampling: the request goes out with anthropic-version 2023-06-01.
    """
    draft = Draft({**body, "model": model.id}, model, free_sampling)
    misfit = _window(draft, size, config, lenient) or adapted(draft)
    return misfit or Fitted(draft.body, tuple(draft.said), size.prompt_tokens(model), size.write)


def none_fits(misfits: Sequence[Misfit]) -> UnsupportedRequest | RequestTooLarge:
    """The error of a request that no allowed model accepts, with every model's reason."""
    where = "; ".join(dict.fromkeys(f"{misfit.model} {misfit.text}" for misfit in misfits))
    over = [misfit for misfit in misfits if misfit.reason == "context"]
    if over and all(misfit.reason in ("context", "context_window") for misfit in misfits):
        widest = max(over, key=lambda misfit: misfit.limit or 0)
        what = f"the request needs about {widest.needed:,} tokens, the widest window allowed has {widest.limit:,}"
        return RequestTooLarge(what, where=where, next_step="shorten the conversation, or leave out documents")
    step = "change the request, allow a higher tier, or add a model that accepts it to a tier in prerouter.toml"
    return UnsupportedRequest("no allowed model accepts this request", where=where, next_step=step)


def calmer(body: Mapping[str, Any], model: Model) -> dict[str, Any] | None:
    """`body` with thinking off on `model` or, where that is impossible, at low effort; None when it is so already.

    For a request whose max_tokens were all thought away.
    """
    output, asked = table(body, "output_config"), table(body, "thinking").get("type")
    effort = output.get("effort")
    if asked not in OFF:
        off = thinking_off(model, effort)
        if off:
            return {**body, "thinking": off}
        if not model.thinks_by_default:
            return {key: value for key, value in body.items() if key != "thinking"} if asked else None
    if asked == "disabled" or effort == "low" or "low" not in model.efforts:
        return None
    return {**body, "output_config": {**output, "effort": "low"}}


def worst_case_usd(fitted: Fitted, model: Model) -> Decimal:
    """US dollars of one attempt at list price: the prompt as estimated, written to the cache where marked; max_tokens.

    Raises UnsupportedRequest for an inference_geo or a speed that `fits` refuses.
    """
    kind = f"cache_write_{fitted.write}_tokens" if fitted.write else "input_tokens"
    limit = fitted.body.get("max_tokens")
    usage = Usage(**{kind: fitted.prompt_tokens, "output_tokens": limit if type(limit) is int and limit > 0 else 0})
    return cost(model, usage, geo_us=fitted.body.get("inference_geo") == "us", fast=fitted.body.get("speed") == "fast")


def _window(draft: Draft, size: Size, config: DispatchConfig, lenient: bool) -> Misfit | None:
    model, window = draft.model, draft.model.context_tokens
    if config.context_window == "extended" and window < EXTENDED_TOKENS:
        return draft.misfit("context_window", f"has a window of {window:,} tokens, extended was asked for")
    prompt, limit = size.prompt_tokens(model), draft.body.get("max_tokens")
    answer = limit if type(limit) is int and limit > 0 else 0
    if (size.least(model) if lenient else prompt + answer) <= window:
        return None
    needed = prompt if lenient or prompt > window else prompt + answer
    return draft.misfit("context", f"has a window of {window:,} tokens, this needs about {needed:,}", needed, window)
