"""The public face: everything else may change."""

from __future__ import annotations

import prerouter

NAMES = {
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
}


def test_the_public_names_are_exactly_these() -> None:
    assert set(prerouter.__all__) == NAMES
    assert set(prerouter.__all__) <= set(dir(prerouter))


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in prerouter.__all__:
        assert getattr(prerouter, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(prerouter, "no_such_name")


def test_every_error_is_a_prerouter_error() -> None:
    errors = [getattr(prerouter, name) for name in NAMES if name.endswith(("Error", "Request", "TooLarge", "Exceeded"))]
    assert len(errors) == 10
    assert all(issubclass(error, prerouter.PreRouterError) for error in errors)
