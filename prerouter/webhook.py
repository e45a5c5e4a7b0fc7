"""Tell another system of an event, off the path: one POST of JSON, best effort."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from prerouter.background import in_thread

TIMEOUT_S = 10.0
_log = logging.getLogger("prerouter.webhook")


def post(url: str, event: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Future[bool]:
    """POST `event` to `url` on a thread of its own; the future tells whether the other side took it (2xx).

    Raises nothing. The URL is in no message: those of chat systems hold their key.
    """
    return in_thread(_send, url, json.dumps(dict(event), ensure_ascii=False).encode(), timeout_s)


def _send(url: str, body: bytes, timeout_s: float) -> bool:
    import urllib.request
    from urllib.parse import urlsplit

    request = urllib.request.Request(url, body, {"content-type": "application/json", "user-agent": "prerouter"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return 200 <= int(response.status) < 300
    except Exception as error:  # a lying server may make anything happen in here
        _log.warning("the webhook at %s was not told: %s", urlsplit(url).hostname, type(error).__name__)
        return False
