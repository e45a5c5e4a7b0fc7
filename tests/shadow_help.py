"""A fake Claude that answers, judges and labels, and usage logs with answers, for tests of comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fake_claude import default_answer

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"


def judging(better: Callable[[str, str], str]) -> Callable[[Mapping[str, Any]], Mapping[str, Any] | str]:
    """Answers of a fake Claude: rulings are `better(first answer, second answer)`, the rest is as usual."""

    def answer(body: Mapping[str, Any]) -> Mapping[str, Any] | str:
        asked = (body.get("output_config") or {}).get("format", {}).get("schema", {}).get("properties", {})
        if "better" not in asked:
            return default_answer(body)
        content = body["messages"][0]["content"]
        answers = [content.split(f"<{which} answer ")[1].split(">\n", 1)[1].split("\n</")[0] for which in PLACES]
        return json.dumps({"better": better(*answers), "confidence": 0.8})

    return answer


PLACES = ("first", "second")


def prefers(text: str) -> Callable[[str, str], str]:
    """A judge that takes the answer with `text` in it."""
    return lambda first, second: "first" if text in first else "second" if text in second else "tie"


def usage_row(text: str, model: str = OPUS, answer: str = "The logged answer.", **fields: Any) -> dict[str, Any]:
    """A row of a usage log with the whole request and its answer."""
    usage = {"input_tokens": 400, "output_tokens": 200}
    return {
        "request": {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": text}]},
        "response": {
            "model": model,
            "content": [{"type": "text", "text": answer}],
            "stop_reason": "end_turn",
            "usage": usage,
        },
        **fields,
    }


def usage_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A usage log."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
