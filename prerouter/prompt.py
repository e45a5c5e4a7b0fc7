"""What the classifier is asked and what its answer means: the texts in `prompts/`, and the Messages API's wire form.

Nothing is sent from here and the SDK is not needed: the same prompt serves live calls and batches. The shape is the one
that every model accepts (CLAUDE_API.md, section 3): a JSON schema in `output_config.format`, no sampling parameters, no
prefill, no forced tool, thinking off where the model allows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from prerouter.records import Request, Usage, Verdict
from prerouter.taxonomy import Label, Taxonomy
from prerouter.tiers import Model, cost, thinking_off, thinks

OPTIONAL = ("fallback_label", "rationale", "params", "also", "question")
LABEL_CHARS = 1200  # for all labels; examples take what the definitions leave. Keeps four labels below 600 tokens
# Room for the answer, in tokens; a limit, not a cost. A label and a confidence are 20 tokens, all fields 150.
ANSWER_TOKENS, LONG_ANSWER_TOKENS = 128, 1024
THINKING_TOKENS = 8192  # added where a model cannot but think: what it thinks counts toward max_tokens

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON escapes can make one; it cannot be written as UTF-8

Outcome = Literal["classified", "classifier_refused", "classifier_invalid"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question about any request. Make it with `load`.

    system: the system prompt. schema: JSON schema of the answer. id: 12 hex characters, sha256 of texts, schema, model.
    """

    taxonomy: Taxonomy
    model: Model
    ask: tuple[str, ...]
    system: str
    schema: dict[str, Any]
    request_form: str
    context_form: str
    id: str

    @classmethod
    def load(cls, taxonomy: Taxonomy, model: Model, ask: Sequence[str] = ()) -> Prompt:
        """The prompt of the files in `prompts/` for these labels. `ask`: what of `OPTIONAL` the answer shall have."""
        fields = tuple(name for name in OPTIONAL if name in ask)
        system, schema = _system(taxonomy, fields), _schema(taxonomy, fields)
        forms = (prompt_file("request.md"), prompt_file("context.md"))
        content = json.dumps([system, schema, *forms, model.id], ensure_ascii=False, sort_keys=True)
        prompt_id = hashlib.sha256(content.encode()).hexdigest()[:12]
        return cls(taxonomy, model, fields, system, schema, *forms, prompt_id)

    def body(self, request: Request) -> dict[str, Any]:
        """The fields of a Messages request about `request`; each call draws a new code for the markers."""
        effort = "low" if thinks(self.model) and "low" in self.model.efforts else None
        body: dict[str, Any] = {
            "model": self.model.id,
            "max_tokens": LONG_ANSWER_TOKENS if self.ask else ANSWER_TOKENS,
            "system": self.system,
            "messages": [{"role": "user", "content": self._user_turn(request)}],
            "output_config": {"format": {"type": "json_schema", "schema": self.schema}},
        }
        if effort:
            body["output_config"]["effort"] = effort
        if thinks(self.model, effort):
            body["max_tokens"] += THINKING_TOKENS
        off = thinking_off(self.model, effort)
        return body | ({"thinking": off} if off else {})

    def verdict(self, message: object) -> Verdict:
        """What a Messages response (decoded JSON) says: a label, or why there is none. Never raises."""
        fields = message if isinstance(message, dict) else {}
        content = fields.get("content")
        texts = [block.get("text") for block in _dicts(content) if block.get("type") == "text"]
        usage = usage_of(fields.get("usage"))
        stop = fields.get("stop_reason")
        if stop == "refusal":  # billed only when it comes after some output
            return self._without_label("classifier_refused", usage, billed=bool(content))
        answer = (
            _json("".join(text for text in texts if isinstance(text, str)))
            if stop in ("end_turn", "stop_sequence")
            else None
        )
        values = self._values(answer) if isinstance(answer, dict) else None
        if values is None:
            return self._without_label("classifier_invalid", usage)
        return Verdict(**values, reason="classified", cost_usd=cost(self.model, usage), usage=usage, prompt_id=self.id)

    def _without_label(self, reason: Outcome, usage: Usage, *, billed: bool = True) -> Verdict:
        dollars = cost(self.model, usage) if billed else Decimal(0)
        return Verdict(None, reason, cost_usd=dollars, usage=usage, prompt_id=self.id)

    def _values(self, answer: dict[str, Any]) -> dict[str, Any] | None:
        """Fields of a Verdict; None when the answer does not keep to the schema in all but capitals."""
        if set(answer) != set(self.schema["properties"]):
            return None
        read = {
            "label": self._label(answer["label"]),
            "confidence": _confidence(answer["confidence"]),
            "fallback_label": self._label(answer.get("fallback_label", "")),
            "rationale": _text(answer.get("rationale")),
            "params": self._params(answer),
            "also": self._also(answer.get("also")),
            "question": _text(answer.get("question")),
        }
        values = {name: read[name] for name in ("label", "confidence", *self.ask)}
        return None if None in values.values() else values

    def _label(self, name: object) -> str | None:
        return self.taxonomy.match(name) if isinstance(name, str) else None  # capitals are not guaranteed by the API

    def _params(self, answer: dict[str, Any]) -> dict[str, Any] | None:
        """What the specialist is told of the request; of the type that its route says, where there are routes."""
        handoff, label = self.taxonomy.handoff, self._label(answer["label"])
        if handoff is None or label is None:
            return _params(answer.get("params"))
        return handoff.routes[label].read_params(answer.get("params"))

    def _also(self, value: object) -> tuple[str, ...] | None:
        """Further labels, each once; what is none is left out: the first label can be followed all the same."""
        if not isinstance(value, list):
            return None
        return tuple(dict.fromkeys(label for label in map(self._label, value) if label))

    def _user_turn(self, request: Request) -> str:
        nonce = os.urandom(8).hex()  # what stands between the markers cannot know it, hence not close them
        hint = f"Label of this conversation's last turn: {request.hint}" if request.hint else ""
        told = "\n".join(filter(str.strip, (request.context, hint)))
        context = filled(self.context_form, nonce=nonce, context=told) if told else ""
        return filled(self.request_form, nonce=nonce, context=context, request=request.text).strip()


def prompt_file(name: str) -> str:
    """One of the texts in `prompts/`."""
    return (Path(__file__).parent / "prompts" / name).read_text("utf-8")


def filled(form: str, **values: str) -> str:
    """`form` with each {name} replaced once, in one pass: a value that contains "{request}" stays as it is."""
    parts = form.split("{")
    filled = (values[name] + rest for name, rest in (part.split("}", 1) for part in parts[1:]))
    return parts[0] + "".join(filled)


def _system(taxonomy: Taxonomy, ask: tuple[str, ...]) -> str:
    unasked = tuple(f"- {name}:" for name in OPTIONAL if name not in ask)
    form = "\n".join(line for line in prompt_file("classify.md").splitlines() if not line.startswith(unasked))
    text = filled(form, labels=_labels(taxonomy), torn=_torn(taxonomy))
    return text.replace("\n\n\n\n", "\n\n").strip()


def _torn(taxonomy: Taxonomy) -> str:
    return f"If you are torn between two labels, take {taxonomy.torn}." if taxonomy.torn else ""


def _labels(taxonomy: Taxonomy) -> str:
    shown = _examples(taxonomy.labels)
    return "\n".join(_label_line(label, shown[label.name]) for label in taxonomy.labels)


def _label_line(label: Label, examples: list[str]) -> str:
    told = " ".join(filter(None, (label.definition, label.distinction)))
    quoted = "; ".join(json.dumps(text, ensure_ascii=False) for text in examples)
    return f"- {label.name}" + (f": {told}" if told else "") + (f" Examples: {quoted}" if quoted else "")


def _examples(labels: tuple[Label, ...]) -> dict[str, list[str]]:
    """Every label's first example, then their second ones and so on, as long as all labels fit into LABEL_CHARS."""
    shown: dict[str, list[str]] = {label.name: [] for label in labels}
    left = LABEL_CHARS - sum(len(label.definition) + len(label.distinction) for label in labels)
    for i in range(max((len(label.examples) for label in labels), default=0)):
        row = [(label.name, label.examples[i]) for label in labels if i < len(label.examples)]
        left -= sum(len(text) for _, text in row)
        if i > 0 and left < 0:  # a whole row or none: a label must not look likelier for having more examples
            break
        for name, text in row:
            shown[name].append(text)
    return shown


def _schema(taxonomy: Taxonomy, ask: tuple[str, ...]) -> dict[str, Any]:
    """The schema of `answer.json` with the labels in place and without the fields that are not asked for."""
    schema = json.loads(prompt_file("answer.json"))
    schema["required"] = ["label", "confidence", *ask]
    schema["properties"] = {name: schema["properties"][name] for name in schema["required"]}
    for name in {"label", "fallback_label"} & set(schema["required"]):
        schema["properties"][name]["enum"] = list(taxonomy.names)
    if "also" in ask:
        schema["properties"]["also"]["items"]["enum"] = list(taxonomy.names)
    if taxonomy.handoff and "params" in ask:
        routes = (taxonomy.handoff.routes[name] for name in taxonomy.names)
        schema["properties"]["params"] = {"anyOf": [route.params_schema for route in routes]}
    return cast("dict[str, Any]", schema)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(value: object) -> str | None:
    """With U+FFFD for every lone surrogate; None when no string."""
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else None


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _confidence(value: object) -> float | None:
    """In [0, 1], cut to it; None when no finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    finite = isinstance(value, int) or math.isfinite(value)
    return float(min(1, max(0, value))) if finite else None  # cut first: an int may be too large for a float


def _params(value: object) -> dict[str, str] | None:
    if not isinstance(value, list):
        return None
    pairs = [(_text(item.get("name")), _text(item.get("value"))) for item in _dicts(value)]
    read = [(name, text) for name, text in pairs if name is not None and text is not None]
    return dict(read) if len(read) == len(value) else None


def usage_of(value: object) -> Usage:
    """Tokens as billed, from a response's `usage`.

    Optional fields may be null or missing; an undivided cache write is a 5-minute one.
    """
    fields = value if isinstance(value, dict) else {}
    split = fields.get("cache_creation")
    written = (
        split if isinstance(split, dict) else {"ephemeral_5m_input_tokens": fields.get("cache_creation_input_tokens")}
    )
    return Usage(
        input_tokens=_count(fields.get("input_tokens")),
        output_tokens=_count(fields.get("output_tokens")),
        cache_read_tokens=_count(fields.get("cache_read_input_tokens")),
        cache_write_5m_tokens=_count(written.get("ephemeral_5m_input_tokens")),
        cache_write_1h_tokens=_count(written.get("ephemeral_1h_input_tokens")),
    )


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
