"""What an exception of the anthropic SDK comes to, without its texts: a gateway may put anything there."""

from __future__ import annotations

import re
import time
from typing import Any

from prerouter.flights import Fault

_RETRIED = frozenset((408, 409, 429))  # and 500 upwards: what the SDK would retry (CLAUDE_API.md, section 8)
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_FINAL = frozenset((400, 401, 402, 403, 404, 413))  # no other answer comes, whatever x-should-retry says
SPENT = frozenset(("enforced_spend_limit_reached", "contract_spend_limit_reached"))


class BadBody(Exception):
    """The headers of a success came, the body did not. Leaving the response then drops its connection."""


def fault(error: Exception) -> Fault:
    """What an exception of a call comes to."""
    import anthropic

    if isinstance(error, BadBody):
        return Fault("classifier_invalid", str(error))
    if isinstance(error, anthropic.APIStatusError):
        return _status_fault(error)
    if isinstance(error, anthropic.APITimeoutError):
        return Fault("classifier_timeout", "the connection timed out", sent=_sent(error))
    if isinstance(error, anthropic.APIConnectionError):
        cause = type(error.__cause__).__name__
        retry = cause != "TooManyRedirects"
        return Fault("classifier_error", f"no connection: {cause}", retry=retry, sent=_sent(error))
    return Fault("classifier_error", type(error).__name__)


def _sent(error: Exception) -> bool:
    """False when there was no connection to send anything over."""
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _status_fault(error: Any) -> Fault:
    headers, status = error.response.headers, error.status_code
    names = " ".join(name for name in (error.type, error.error_code) if _is_name(name))
    told = f"HTTP {status} {names} request_id={error.request_id if _is_name(error.request_id) else None}"
    wanted = {"true": True, "false": False}.get(headers.get("x-should-retry"), status in _RETRIED or status >= 500)
    retry = wanted and status not in _FINAL and error.error_code not in SPENT
    return Fault("classifier_error", told, retry=retry, retry_after_s=retry_after_s(headers), status=status)


def _is_name(value: object) -> bool:
    """Whether it is what the API calls things; a gateway may put anything there, keys included, and this is logged."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def retry_after_s(headers: Any) -> float:
    """Seconds, >= 0; 0 when absent or unreadable. `retry-after` is a number of seconds or an HTTP date (RFC 9110)."""
    from email.utils import parsedate_to_datetime

    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if seconds > 0:  # false for NaN
            return seconds
    return 0.0
