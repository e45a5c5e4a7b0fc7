"""Message Batches of the fake Claude: accepted at once, checked and answered when they end, results in random order.

As strict as notes of 2026-11-20 on the API say; [?] marks what nobody could verify: there the strict side is taken.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fake_claude_http import Reply, Request
from fake_claude_outcomes import Answer, Error, Outcome, json_reply
from fake_claude_shapes import Rejected

BATCHES = "/v1/messages/batches"
MAX_REQUESTS, MAX_BYTES = 100_000, 256 * 1024 * 1024
KINDS = ("succeeded", "errored", "canceled", "expired")
_UNTIL = timedelta(hours=24)
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Item = Mapping[str, Any]
Respond = Callable[[Mapping[str, Any], Outcome], dict[str, Any]]  # body, outcome -> Message; raises Rejected


@dataclass(slots=True)
class Batch:
    """One accepted batch. ends: time.monotonic() at which it has ended."""

    id: str
    items: list[Item]
    ends: float
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    cancelled: datetime | None = None
    lines: list[str] | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def ended(self) -> bool:
        """Whether all its items have a result."""
        return time.monotonic() >= self.ends


class Batches:
    """All batches. seconds: until one ends. outcome: `outcome(custom_id) -> Outcome | "expired" | "canceled"`.

    queue: items that may wait at a time. paid: custom_ids of items that were answered, hence billed.
    """

    def __init__(self, respond: Respond, base: Callable[[], str]) -> None:
        self.seconds, self.queue = 0.0, 200_000
        self.outcome: Callable[[str], Outcome | str] = lambda _: Answer()
        self.all: dict[str, Batch] = {}
        self.paid: list[str] = []
        self._respond, self._base = respond, base
        self._random = random.Random(0)

    def handle(self, request: Request, body: Any) -> Reply:
        """The reply to a request below BATCHES; raises Rejected."""
        rest = request.path.removeprefix(BATCHES).strip("/").split("/")
        name, verb = rest[0], rest[1] if len(rest) > 1 else ""
        if not name:
            return json_reply(self._create(body) if request.method == "POST" else self._list(request.query))
        batch = self.all.get(name)
        if batch is None or len(rest) > 2:
            raise Rejected(f"batch {name} not found", 404, "not_found_error")
        actions = {
            ("GET", ""): lambda: json_reply(self._json(batch)),
            ("DELETE", ""): lambda: json_reply(self._delete(batch)),
            ("POST", "cancel"): lambda: json_reply(self._cancel(batch)),
            ("GET", "results"): lambda: self._results(batch),
        }
        if (request.method, verb) not in actions:
            raise Rejected("Method Not Allowed", 405)
        return actions[request.method, verb]()

    def _create(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict) or set(body) != {"requests"} or not isinstance(body["requests"], list):
            raise Rejected("requests: Field required, and nothing else")
        items = body["requests"]
        if not 1 <= len(items) <= MAX_REQUESTS:
            raise Rejected(f"requests: from 1 to {MAX_REQUESTS} items")
        for i, item in enumerate(items):
            if not isinstance(item, dict) or set(item) != {"custom_id", "params"}:
                raise Rejected(f"requests.{i}: custom_id and params, and nothing else")
            if not isinstance(item["custom_id"], str) or not _CUSTOM_ID.fullmatch(item["custom_id"]):
                raise Rejected(f"requests.{i}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if len({item["custom_id"] for item in items}) < len(items):
            raise Rejected("requests: custom_id must be unique")  # [?]
        waiting = sum(len(batch.items) for batch in self.all.values() if not batch.ended)
        if waiting + len(items) > self.queue:
            raise Rejected("too many requests in the batch queue", 429, "rate_limit_error")
        batch = Batch(f"msgbatch_fake{len(self.all):04d}", items, time.monotonic() + self.seconds)
        self.all[batch.id] = batch
        return self._json(batch)

    def _list(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        limit = int(query.get("limit", ["20"])[0])
        if set(query) - {"limit", "after_id", "before_id"} or not 1 <= limit <= 1000:
            raise Rejected("limit: Input should be from 1 to 1000")
        newest = list(reversed(self.all.values()))
        after = query.get("after_id", [None])[0]
        start = 1 + [batch.id for batch in newest].index(after) if after in self.all else 0
        page = newest[start : start + limit]
        return {
            "data": [self._json(batch) for batch in page],
            "has_more": start + limit < len(newest),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _json(self, batch: Batch) -> dict[str, Any]:
        self._work(batch)
        ended = batch.ended
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if batch.cancelled else "in_progress",
            "request_counts": {"processing": 0 if ended else len(batch.items)} | batch.counts,
            "created_at": _stamp(batch.created),
            "expires_at": _stamp(batch.created + _UNTIL),
            "ended_at": _stamp(batch.created) if ended else None,
            "cancel_initiated_at": _stamp(batch.cancelled) if batch.cancelled else None,
            "archived_at": None,
            "results_url": f"{self._base()}{BATCHES}/{batch.id}/results" if ended else None,
        }

    def _work(self, batch: Batch) -> None:
        """Answer all items, once the batch has ended."""
        if not batch.ended or batch.lines is not None:
            return
        results = [(item["custom_id"], self._result(item, batch)) for item in batch.items]
        for name, result in results:
            batch.counts[result["type"]] += 1
            if result["type"] == "succeeded":
                self.paid.append(name)
        self._random.shuffle(results)
        batch.lines = [json.dumps({"custom_id": name, "result": result}) + "\n" for name, result in results]

    def _result(self, item: Item, batch: Batch) -> dict[str, Any]:
        if batch.cancelled:
            return {"type": "canceled"}
        outcome = self.outcome(item["custom_id"])
        if isinstance(outcome, str):
            return {"type": outcome}
        try:
            if isinstance(outcome, Error):
                raise Rejected(outcome.message, outcome.status, outcome.kind or "api_error")
            if item["params"].get("stream") or item["params"].get("speed") or item["params"].get("max_tokens") == 0:
                raise Rejected("stream, speed and max_tokens 0 are not allowed in a batch")
            return {"type": "succeeded", "message": self._respond(item["params"], outcome)}
        except Rejected as error:
            told = {"type": "error", "error": {"type": error.kind, "message": error.message}, "request_id": None}
            return {"type": "errored", "error": told}

    def _results(self, batch: Batch) -> Reply:
        self._work(batch)
        if batch.lines is None:
            raise Rejected("the batch has not ended", 404, "not_found_error")  # [?]
        return Reply(200, [line.encode() for line in batch.lines], {"content-type": "application/x-jsonl"})

    def _cancel(self, batch: Batch) -> dict[str, Any]:
        if batch.ended:
            raise Rejected("the batch has ended")  # [?]
        batch.cancelled = datetime.now(UTC)
        return self._json(batch)

    def _delete(self, batch: Batch) -> dict[str, Any]:
        if not batch.ended:
            raise Rejected("only a batch that has ended can be deleted")
        del self.all[batch.id]
        return {"id": batch.id, "type": "message_batch_deleted"}


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
