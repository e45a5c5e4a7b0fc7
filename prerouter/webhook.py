"""Telling another system by one POST of JSON. The URL may be a secret and is never quoted, nor what is sent logged."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


def post(url: str, content: Mapping[str, Any], timeout_s: float) -> str | None:
    """Send `content`; None when a 2xx came back within `timeout_s` seconds, else why not, in a few words."""
    outcome: list[str | None] = []
    # On a thread, since a socket's timeout begins anew at every byte that a slow server sends.
    thread = threading.Thread(target=lambda: outcome.append(_post(url, content, timeout_s)), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return outcome[0] if outcome else f"no answer within {timeout_s:g} seconds"


def _post(url: str, content: Mapping[str, Any], timeout_s: float) -> str | None:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        if urlsplit(url).scheme not in ("http", "https"):
            return "not an http or https URL"
        body = json.dumps(content, ensure_ascii=True, allow_nan=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "prerouter"}
        with urlopen(Request(url, body, headers, method="POST"), timeout=timeout_s) as answer:
            return None if 200 <= answer.status < 300 else f"HTTP status {answer.status}"
    except HTTPError as error:
        error.close()
        return f"HTTP status {error.code}"
    except (URLError, HTTPException, OSError, ValueError) as error:
        return f"cannot be reached ({type(error).__name__})"  # never its text: some quote the URL
