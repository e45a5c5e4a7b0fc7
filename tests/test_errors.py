from __future__ import annotations

import pickle

import pytest

from prerouter import errors


def test_a_message_is_what_where_and_next() -> None:
    error = errors.ConfigError("unknown key x", where="prerouter.toml", next_step="remove it")
    assert str(error) == "unknown key x (prerouter.toml); remove it"
    plain = {"type": "ConfigError", "message": "unknown key x", "where": "prerouter.toml", "next": "remove it"}
    assert error.to_json() == plain
    assert str(errors.ConfigError("x")) == "x"
    assert errors.ConfigError("x").to_json() == {"type": "ConfigError", "message": "x", "where": None, "next": None}


def test_a_data_error_knows_file_and_line() -> None:
    error = errors.DataError("broken", file="a.jsonl", line=3)
    assert (error.file, error.line, str(error)) == ("a.jsonl", 3, "broken (a.jsonl, line 3)")
    assert str(errors.DataError("empty", file="a.jsonl")) == "empty (a.jsonl)"


def test_a_missing_extra_names_the_command_that_brings_it() -> None:
    assert str(errors.MissingExtraError("torch", "transformer")).endswith("pip install 'prerouter[transformer]'")


def test_an_upstream_error_carries_cause_and_attempts_and_exits_3() -> None:
    cause = TimeoutError("slow")
    error = errors.UpstreamError("no answer", cause=cause, attempts=3)
    assert (error.cause, error.attempts, error.exit_code) == (cause, 3, 3)


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("a", where="b", next_step="c"),
        errors.DataError("a", file="f", line=2, next_step="c"),
        errors.MissingExtraError("torch", "transformer"),
        errors.UpstreamError("a", attempts=2),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_pickling(error: errors.PreRouterError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
