"""The developer assistant of the README, a taxonomy folder of five routes, and a Claude that knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fake_claude_answers import conform, last_user_text
from fake_claude_rules import response_format

FILES = {
    "taxonomy.toml": """
name = "developer assistant"
default = "general"
plan = true
labels = [
  { name = "code_review", tier = "sonnet", definition = "Judging code: a diff, a function, a pull request." },
  { name = "debugging", tier = "sonnet", definition = "Finding out why something fails, from an error." },
  { name = "architecture", tier = "opus", definition = "How to build what is not there yet: structure, trade-offs." },
  { name = "docs_lookup", tier = "haiku", definition = "Looking up, explaining or writing documentation." },
  { name = "general", tier = "haiku", definition = "Anything else." },
]
""",
    "code_review/system.md": "You review code. Name every finding with its line, the worst one first.",
    "code_review/route.toml": """
max_tokens = 4000
[params]
language = { type = "string", required = true, about = "programming language" }
depth = ["quick", "thorough"]
""",
    "debugging/system.md": "You find the cause of a failure before you mend it. Ask for the trace if there is none.",
    "debugging/route.toml": 'max_tokens = 3000\nfallback_route = "code_review"',
    "architecture/system.md": "You design systems. Give two designs, their trade-offs, and your choice.",
    "architecture/route.toml": 'max_tokens = 8000\nthreshold = 0.8\ncache = "1h"',
    "docs_lookup/system.md": "You know and write documentation. Name the page that an answer comes from.",
    "docs_lookup/route.toml": "max_tokens = 2000",
    "docs_lookup/examples.jsonl": json.dumps({"user": "What does 409 mean?", "assistant": "Conflict (RFC 9110)."}),
    "general/route.toml": "max_tokens = 1000",
}

WORDS = {
    "code_review": ("review", "diff"),
    "debugging": ("error", "fails", "traceback"),
    "architecture": ("design", "scale"),
    "docs_lookup": ("docs", "documentation"),
}


def write(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """A taxonomy folder of these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def answer(body: Mapping[str, Any]) -> str:
    """What the simulated Claude says: a label by keywords, and what the handoff asks for; else who it was asked as."""
    schema = response_format(body)
    if schema is None or "label" not in schema.get("properties", {}):
        return f"Answered by {speaker(body)}." if schema is None else json.dumps(conform(schema, schema))
    labels = schema["properties"]["label"]["enum"]
    text = last_user_text(body).split("<request", 1)[-1].lower()
    places = {name: min((text.find(w) for w in words if w in text), default=-1) for name, words in WORDS.items()}
    found = sorted((name for name in places if places[name] >= 0 and name in labels), key=places.__getitem__)
    said = conform(schema, schema)
    said |= {"label": (found or labels[-1:])[0], "confidence": 0.9}
    if "fallback_label" in said:
        said["fallback_label"] = (found[1:] or labels[-1:])[0]
    if "also" in said:
        said["also"] = found[1:]
    if "params" in said:
        said["params"] = {"route": said["label"]} | ({"language": "python"} if said["label"] == "code_review" else {})
    if "question" in said:
        said["question"] = ""
    return json.dumps(said)


def speaker(body: Mapping[str, Any]) -> str:
    """The route whose system prompt a request has."""
    said = json.dumps(body.get("system", ""))
    for name in WORDS:
        if json.dumps(FILES[f"{name}/system.md"])[1:-1] in said:
            return name
    return "nobody in particular"
