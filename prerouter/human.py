"""Requests that a person gets instead of a model: a callback, or a queue that `prerouter review --queue` shows.

The queue is human.jsonl in the state folder, one request a line, with its text: readable for its owner only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerouter.errors import ConfigError
from prerouter.routes import Human

QUEUE = "human.jsonl"  # in the state folder
QUEUED = "Your request was handed to a person, who will answer it."

_log = logging.getLogger("prerouter.dispatch")


@dataclass(frozen=True, slots=True)
class Case:
    """A request for a person. id: that of its Decision. body: as the caller sent it. at: UTC seconds since 1970."""

    id: str
    body: Mapping[str, Any]
    label: str
    tags: Mapping[str, str]
    at: float

    def to_json(self) -> dict[str, Any]:
        """The case as a line of the queue, in the form of a labelled row."""
        kept = {key: self.body[key] for key in ("system", "messages", "tools") if self.body.get(key) is not None}
        own = {"id": self.id, "label": self.label, "source": "queue", "queued_at": self.at, "tags": dict(self.tags)}
        return kept | own


class People:
    """Hands cases on. on_human: gets those for the callback; its text, if any, is the reply."""

    def __init__(self, folder: Path, on_human: Callable[[Case], Any] | None = None) -> None:
        self.queue, self._on_human = folder / QUEUE, on_human

    def hand(self, how: Human, case: Case) -> Any:
        """What the callback returned: a text, None, or an awaitable of one; None for the queue.

        Raises ConfigError where there is no callback, or the queue cannot be written: no model gets the request then.
        """
        if how == "queue":
            self.put(case)
            return None
        if self._on_human is None:
            step = 'pass Dispatch(on_human=...), or say handoff = "queue"'
            raise ConfigError("there is nobody to hand the request to", where="on_human", next_step=step)
        return self._on_human(case)

    def put(self, case: Case) -> None:
        """Append a case to the queue; on disk when this returns. One write: several processes share the file."""
        line = json.dumps(case.to_json(), ensure_ascii=False, default=_plain).encode("utf-8", "backslashreplace")
        try:
            self.queue.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.queue, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            step = "make the state folder writable"
            raise ConfigError(
                f"cannot queue a request: {error.strerror}", where=str(self.queue), next_step=step
            ) from error
        _log.info("request %s is in the queue: prerouter review --queue", case.id)


def _plain(value: Any) -> Any:
    """An object of the SDK's as JSON."""
    return value.to_dict(mode="json") if hasattr(value, "to_dict") else str(value)
