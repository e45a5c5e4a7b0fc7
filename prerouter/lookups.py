"""What is asked about claude-dispatch without sending it: how many tokens a request has, whether the model exists."""

from __future__ import annotations

from typing import Any

from prerouter.dispatchconfig import DispatchConfig
from prerouter.dispatchrecords import DISPATCH
from prerouter.engine import would_go_to
from prerouter.errors import ConfigError
from prerouter.parts import Parts
from prerouter.routingreply import model_info
from prerouter.run import Run
from prerouter.settings import Mode, mode

CONFIG = "dispatch_config"
COUNT_PATH, MODELS_PATH, BATCHES_PATH = "/v1/messages/count_tokens", "/v1/models", "/v1/messages/batches"
# The least that every routed request may use: the router sends a larger one where it fits.
_SHOWN = {"id": DISPATCH, "type": "model", "display_name": "prerouter", "lifecycle": "active", "created_at": 0}


def how() -> Mode:
    """PREROUTER_MODE; "off" when it is misspelt: whoever sets a kill switch meant to use it."""
    try:
        return mode()
    except ConfigError:
        return "off"


def counted_as(request: Any, parts: Parts) -> dict[str, Any] | None:
    """The body to count: that of the model that local alone would choose; None when it is not for us."""
    body = request.json
    if path_of(request) != COUNT_PATH or not isinstance(body, dict) or body.get("model") != DISPATCH:
        return None
    config = DispatchConfig.read(body.get(CONFIG), parts.settings)
    said = {key: value for key, value in body.items() if key != CONFIG}
    return would_go_to(Run(parts, said, config, stream=False, mode="on")).fitted.body


def own_model(request: Any) -> Any | None:
    """The description of claude-dispatch, when that alone is asked for."""
    return _described() if path_of(request) == f"{MODELS_PATH}/{DISPATCH}" else None


def is_first_page(request: Any) -> bool:
    """Whether the list of models is asked for from its beginning, active ones among them."""
    query = request.query_params
    if path_of(request) != MODELS_PATH or query.get("after_id") or query.get("before_id"):
        return False
    wanted = query.get("lifecycle")
    return not isinstance(wanted, list | tuple) or "active" in wanted


def listed(page: Any) -> None:
    """Put claude-dispatch at the head of a page of models."""
    if isinstance(getattr(page, "data", None), list) and all(model.id != DISPATCH for model in page.data):
        page.data.insert(0, _described())


def lists_batches(request: Any) -> bool:
    """Whether a page of batches is asked for."""
    return path_of(request) == BATCHES_PATH and str(request.method).upper() == "GET"


def path_of(request: Any) -> str:
    """The path of a request, without its query."""
    return str(request.url).split("?")[0]


def _described() -> Any:
    return model_info(_SHOWN)
