"""prerouter: a trainable local pre-router with LLM fallback for teams that call Claude models.

from prerouter import PreRouter
router = PreRouter.load()
decision = router.decide("Is this review positive? 'Loved it.'")
decision.label, decision.model, decision.decided_by
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prerouter.dispatch import AsyncDispatch, Dispatch
    from prerouter.errors import (
        BudgetExceeded,
        ConfigError,
        DataError,
        InvalidRequest,
        MissingExtraError,
        ModelFolderError,
        PreRouterError,
        RequestTooLarge,
        UnsupportedRequest,
        UpstreamError,
    )
    from prerouter.evaluation import evaluate
    from prerouter.labelling import label
    from prerouter.records import Decision
    from prerouter.retraining import retrain
    from prerouter.routelog import RouteLog
    from prerouter.router import PreRouter
    from prerouter.settings import Settings
    from prerouter.training import train

__all__ = [
    "AsyncDispatch",
    "BudgetExceeded",
    "ConfigError",
    "DataError",
    "Decision",
    "Dispatch",
    "InvalidRequest",
    "MissingExtraError",
    "ModelFolderError",
    "PreRouter",
    "PreRouterError",
    "RequestTooLarge",
    "RouteLog",
    "Settings",
    "UnsupportedRequest",
    "UpstreamError",
    "evaluate",
    "label",
    "retrain",
    "train",
]

# Public functions are train, evaluate, label, retrain; their rooms are training, evaluation, labelling, retraining (as
# `routing` is of `prerouter route`). A room of the function's own name would take its place: importing a submodule sets
# that name on the package.
_ROOMS = {
    "AsyncDispatch": "dispatch",
    "Decision": "records",
    "Dispatch": "dispatch",
    "PreRouter": "router",
    "RouteLog": "routelog",
    "Settings": "settings",
    "label": "labelling",
    "evaluate": "evaluation",
    "retrain": "retraining",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    # Names are looked up at first use (PEP 562), so that `import prerouter` costs nothing a program does not need.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"prerouter.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
