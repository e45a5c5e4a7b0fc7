"""Messages API body -> the one text that is labelled, trained on and routed, and its signals.

The text is the current user turn, after two shortened earlier turns when it is a follow-up, and before a short head of
what the tools returned when the model is in the middle of a tool loop. Instructions stand at the head or the tail of a
turn, so a cut always takes the middle, and says how much: `[1,234 characters cut]`. System prompts and tools enter
neither text nor signals: a short head of them is `Request.context`, for a classifier that reads.

Every cut-off is in the block below. Changing one changes the text that model folders were trained on: add a version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import groupby
from math import log1p, sqrt
from typing import Any

from prerouter.body import Block, Conversation, Turn, read
from prerouter.errors import ConfigError
from prerouter.records import Request

TEXT_VERSION = 1

MAX_CHARS = 6_000  # of the whole text: about 1,500 tokens; what work is asked for shows in less
HEAD_SHARE = 2 / 3  # of a cut text is its head, the rest its tail: most instructions come first, many come last
MARKER_CHARS = 32  # kept free for the marker; enough for the count of a 1 GB text
SCAN_FACTOR = 16  # tidying looks at this many times the budget: noise that is cut makes room for what comes after it
PRIOR_USER_CHARS = 240  # with the next line about 100 tokens: a follow-up's own head stays among the first tokens read
PRIOR_ASSISTANT_CHARS = 160  # shows what kind of work was done; an answer says little about the next question
DOCUMENT_CHARS = 1_000  # of each document or search result: it is material; the instruction is in the text beside it
RESULTS_CHARS = 600  # of all pending tool results together: what kind of thing came back, not the thing
SYSTEM_CHARS = 280  # of the system prompt, for the context: a role and its domain are named in the first sentences
TOOLS_CHARS = 100  # of the names of the tools, for the context: with the two titles at most 400
MARK_CHARS = 80  # of a mark such as `[tool_use: name]`: names may be 200 characters long
ENCODED_CHARS = 120  # base64, hex, hashes: longer than any word or identifier
TOKEN_CHARS = 1_000  # other unbroken printable ASCII (minified code): above URLs; never languages without spaces
TOKEN_HEAD, TOKEN_TAIL = 40, 20  # kept of either: enough to recognise a data URL or the start of minified JSON
LINE_CHARS = 40  # shorter lines repeat in honest code (`});`), longer ones in logs and wrapped base64
SAME_LINES = 10  # kept of the long lines that differ in digits only: a small table stays whole, a log does not
SPACES = 24  # six levels of indentation; longer runs are padding

# Elements that agent harnesses (Claude Code, Codex, Cline, IDE extensions) add to user turns; users do not write them.
# A closed list: with a pattern, many different unclosed tags would cost the square of the text.
HARNESS_TAGS = (
    "system-reminder|environment_context|environment_details|ide_opened_file|ide_selection|ide_diagnostics"
    "|local-command-caveat|local-command-stdout|local-command-stderr|command-name|command-message"
    "|bash-stdout|bash-stderr|task-notification"
)

# Shape of the current turn as it is shown, then (from "follow_up") what surrounds it. All in [0, 3]; "log_": a count on
# a log scale; "_share": of the UTF-8 bytes, as its square root. Constraint words are English; embeddings see the rest.
SIGNAL_NAMES = (
    "log_chars",
    "log_original_chars",
    "log_lines",
    "log_sentences",
    "log_list_items",
    "log_first_line",
    "log_quotes",
    "log_questions",
    "log_code_fences",
    "log_constraints",
    "ends_with_question",
    "digit_share",
    "bracket_share",
    "uppercase_share",
    "non_ascii_share",
    "word_length",
    "follow_up",
    "log_turns",
    "log_images",
    "log_documents",
    "log_tool_results",
)

Body = str | Mapping[str, Any]

_MARK = re.compile(r"\[[a-z_]+\]")
_HARNESS = re.compile(rf"<({HARNESS_TAGS})(?:\s[^<>]{{0,200}})?>")
# The look-behinds let a match start only where a run starts: without them a run just below the limit costs its square.
_ENCODED = re.compile(rf"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{{{ENCODED_CHARS},}}")
_TOKEN = re.compile(rf"(?<![!-~])[!-~]{{{TOKEN_CHARS},}}")
_ENCODED_LINE = re.compile(r"[A-Za-z0-9+/=]+")
_BLANKS = re.compile(rf"(?<![ \t])[ \t]{{{SPACES + 1},}}")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_LIST_ITEM = re.compile(r"\n[ \t]{0,8}(?:[-*•]|\d{1,3}[.)]) ")
_CONSTRAINTS = (
    " must ",
    " exactly ",
    " at least ",
    " at most ",
    " no more than ",
    " only ",
    " each ",
    " every ",
    " without ",
)
_DIGITS, _BRACKETS = b"0123456789", b"(){}[]<>=;_\\|$#`"
_UPPERCASE, _NON_ASCII = bytes(range(65, 91)), bytes(range(128, 256))


def render(body: Body, *, version: int = TEXT_VERSION) -> Request:
    """The Request that a body is labelled, trained on and routed as.

    body: a string, or a Messages API body: the parameters of the SDK's `messages.create`, of which only `messages` is
        needed. Blocks may be dicts or the SDK's own objects; nothing in it is changed or used up.
    version: the text version that a model folder names; one of `VERSIONS`.

    The current user turn is the last one with words, images or documents of the user's own: tool results, trailing
    assistant turns (prefill) and what a harness added do not make one. Checked are every role, every block's type and
    every text; what one model accepts and another does not (prefill, placement of system messages) is left to the API.
    Empty or blank text is legal and gives text "".
    Raises InvalidRequest (with the place, e.g. `messages[2].content[0].type`), ConfigError for an unknown version.
    """
    renderer = VERSIONS.get(version)
    if renderer is None:
        known = ", ".join(map(str, sorted(VERSIONS)))
        raise ConfigError(
            f"unknown text version {version!r}; known: {known}",
            where="text_version",
            next_step="upgrade prerouter, or retrain the model folder",
        )
    return renderer(body)


def _render_1(body: Body) -> Request:
    if isinstance(body, str):
        text = _shorten(body, MAX_CHARS)
        return Request(text, "", _shape(text, len(body)) + _ALONE, 1, len(body))
    talk = read(body)
    at = _current(talk.turns)
    now = talk.turns[at:]
    earlier = _earlier(talk.turns[:at]) if now and at else ""
    said, n_said = _said(now[:1])
    results, n_results = _results(now)
    words = _shorten(said, MAX_CHARS - len(earlier) - len(results))
    text = (earlier + words + results).strip()
    signals = _shape(words, n_said + n_results) + _surroundings(talk, follow_up=bool(earlier))
    return Request(text, _context(talk), signals, 1, n_said + n_results)


VERSIONS: Mapping[int, Callable[[Body], Request]] = {1: _render_1}


# Choosing: which turn is the current one, and what is shown with it.


def _real(turn: Turn) -> bool:
    """False for a turn that only hands back tool results, or only holds what a harness wrote."""
    texts = (block.text if block.kind == "text" else block.mark for block in turn.said)
    return bool(_without_harness("\n".join(texts), marked=False).strip())


def _current(turns: list[Turn]) -> int:
    """The place of the current user turn; len(turns) when there is no user turn."""
    users = [place for place, turn in enumerate(turns) if turn.role == "user"]
    last = users[-1] if users else len(turns)
    return next((place for place in reversed(users) if _real(turns[place])), last)


def _earlier(turns: list[Turn]) -> str:
    """The last real user turn and the last real assistant turn, a line each, and the current one's heading; or ""."""
    lines = ""
    for role, budget in (("user", PRIOR_USER_CHARS), ("assistant", PRIOR_ASSISTANT_CHARS)):
        found = [next((turn for turn in reversed(turns) if turn.role == role and _real(turn)), Turn(role))]
        line = " ".join(_shorten(_said(found)[0], budget).split())
        lines += f"Earlier {role} turn: {line}\n" if line else ""
    return f"{lines}Current user turn: " if lines else ""


def _said(turns: list[Turn]) -> tuple[str, int]:
    """What was said, with marks for what is no text, equal ones counted; and its characters before any cut."""
    blocks = [block for turn in turns for block in turn.said]
    texts = [block.text for block in blocks]
    if len(blocks) == 1 and blocks[0].kind == "text":  # as most are; what follows comes to the same
        return texts[0], len(texts[0])
    parts = [_part(block, text) for block, text in zip(blocks, texts, strict=True)]
    runs = ((part, len(list(run))) for part, run in groupby(parts))
    lines = (f"{part} x{n}" if n > 1 and _MARK.fullmatch(part) else "\n".join([part] * n) for part, n in runs)
    return "\n".join(lines), sum(map(len, texts))


def _part(block: Block, text: str) -> str:
    if block.kind == "text":
        return text
    return f"{_shorten(block.mark, MARK_CHARS)} {_shorten(text, DOCUMENT_CHARS)}".rstrip()


def _results(turns: list[Turn]) -> tuple[str, int]:
    """The head of what tools returned last, under a heading; and its characters before any cut."""
    pending = [turn.results for turn in turns if turn.role == "user" and turn.results]
    if not pending:
        return "", 0
    text = "\n".join(block.text for block in pending[-1])
    return f"\n\n[tool results] {_shorten(text, RESULTS_CHARS)}", len(text)


def _context(talk: Conversation) -> str:
    lines = (
        ("System", "\n".join(talk.system), SYSTEM_CHARS),
        ("Tools", ", ".join(talk.tools), TOOLS_CHARS),
    )
    return "\n".join(f"{title}: {_shorten(text, budget, head_share=1.0)}" for title, text, budget in lines if text)


# Shortening: linear in the length of the text, whatever it holds.


def _shorten(text: str, budget: int, *, head_share: float = HEAD_SHARE) -> str:
    """`text` without noise in at most `budget` characters: its head, how much is cut, its tail."""
    text = _without_harness(text.replace("\x00", "").strip())
    half = budget * SCAN_FACTOR // 2
    gone = max(0, len(text) - 2 * half)
    if not gone:
        text = _tidy(text)
        if len(text) <= budget:
            return text
    n_head = int((budget - MARKER_CHARS) * head_share)
    n_tail = budget - MARKER_CHARS - n_head
    head, tail = (_tidy(text[:half]), _tidy(text[-half:])) if gone else (text[:n_head], text[n_head:])
    gone += max(0, len(head) - n_head) + max(0, len(tail) - n_tail)
    return f"{head[:n_head]}\n{_marker(gone)}\n{tail[max(0, len(tail) - n_tail) :]}".strip()


def _marker(n_chars: int) -> str:
    return f"[{n_chars:,} characters cut]"


def _without_harness(text: str, *, marked: bool = True) -> str:
    """`text` with every closed harness element cut. A tag that is not closed once is not looked for again."""
    if "<" not in text:
        return text
    kept: list[str] = []
    unclosed: set[str] = set()
    at = 0
    for match in _HARNESS.finditer(text):
        if match.start() < at or match[1] in unclosed:
            continue
        end = text.find(f"</{match[1]}>", match.end())
        if end < 0:
            unclosed.add(match[1])
            continue
        end += len(match[1]) + 3
        kept += [text[at : match.start()], _marker(end - match.start()) if marked else ""]
        at = end
    return "".join(kept) + text[at:]


def _tidy(text: str) -> str:
    """`text` without characters that cannot be stored, long tokens, repeated lines and blank space."""
    text = _scrub(text)
    if " " * SPACES in text or "\t" in text:
        text = _BLANKS.sub(" " * SPACES, text)
    if max(map(len, text.split()), default=0) >= ENCODED_CHARS:
        text = _TOKEN.sub(_short_token, _ENCODED.sub(_short_token, text))
    if text.count("\n") > SAME_LINES:
        text = _without_same_lines(text)
    return _BLANK_LINES.sub("\n\n", text).strip()


def _scrub(text: str) -> str:
    """`text` that is legal UTF-8: halves of surrogate pairs joined, lone ones replaced by U+FFFD; lines end in \\n."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _short_token(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[:TOKEN_HEAD]} {_marker(len(token) - TOKEN_HEAD - TOKEN_TAIL)} {token[-TOKEN_TAIL:]}"


def _without_same_lines(text: str) -> str:
    """`text` with SAME_LINES of the long lines that differ in digits only, or are all encoded data."""
    seen: Counter[bytes] = Counter()
    kept: list[str] = []
    gone = 0
    shapes = text.encode().translate(None, _DIGITS).split(b"\n")
    for line, shape in zip((*text.split("\n"), ""), (*shapes, b""), strict=True):
        if len(line) >= LINE_CHARS:
            key = b"" if b" " not in shape and _ENCODED_LINE.fullmatch(line) else shape
            seen[key] += 1
            if seen[key] > SAME_LINES:
                gone += len(line) + 1
                continue
        kept += [_marker(gone), line] if gone else [line]
        gone = 0
    return "\n".join(kept)


# Measuring: everything is bounded by MAX_CHARS here, and done by the C methods of str and bytes.


def _shape(text: str, n_chars: int) -> tuple[float, ...]:
    """The signals of the current user turn, as it is shown and before any cut."""
    data, words, count = text.encode(), text.split(), text.count
    lower = text.lower()
    return (
        _log(len(text), 3),
        _log(n_chars, 5),
        _log(count("\n")),
        _log(count(". ") + count(".\n") + count("? ") + count("! ") + count("。")),
        _log(sum(1 for _ in _LIST_ITEM.finditer(f"\n{text}"))),
        _log(len(text.split("\n", 1)[0]), 3),
        _log(count('"') + count("“")),
        _log(count("?")),
        _log(count("```")),
        _log(sum(map(lower.count, _CONSTRAINTS))),
        float(text.endswith("?")),
        *(_share(data, kind) for kind in (_DIGITS, _BRACKETS, _UPPERCASE, _NON_ASCII)),
        min(3.0, sum(map(len, words)) / max(1, len(words)) / 5),
    )


def _surroundings(talk: Conversation, *, follow_up: bool) -> tuple[float, ...]:
    """The signals of the conversation around the current turn."""
    n_documents = talk.count("document", "search_result", "container_upload")
    counts = len(talk.turns), talk.count("image"), n_documents, talk.n_results
    return (float(follow_up), *map(_log, counts))


def _log(count: int, unit: float = 2.0) -> float:
    """A count on a log scale, in [0, 3]; `unit` brings the largest that is usual to 3."""
    return min(3.0, log1p(count) / unit)


def _share(data: bytes, kind: bytes) -> float:
    """3 times the square root of a share, in [0, 3]: shares are small and skewed, their roots are spread evenly."""
    return 3 * sqrt(1 - len(data.translate(None, kind)) / len(data)) if data else 0.0


_ALONE = _surroundings(Conversation([Turn("user")], [], []), follow_up=False)
