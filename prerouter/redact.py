"""Personal data and secrets -> placeholders, before a request is sent to a labeller or stored.

Found are e-mail addresses, phone numbers, payment card numbers, IBANs, keys (tokens, passwords, private keys), and
logins in URLs. Not found, since no pattern tells them from other words: names, postal addresses, passwords that nothing
announces, and unbroken local phone numbers. In doubt more is taken out than needed: the work that is asked for stays
legible.

A placeholder says what stood there: `[EMAIL_1]`. Within one request the same thing gets the same number, however it is
written (capitals, spaces). Redacting twice gives the same as redacting once. The time is linear in the length: every
quantifier is bounded or possessive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from prerouter.errors import InvalidRequest

_T = TypeVar("_T")
_Span = tuple[int, int]

KINDS = ("LOGIN", "KEY", "EMAIL", "IBAN", "CARD", "PHONE")

_PLACEHOLDER = rf"\[(?:{'|'.join(KINDS)})_\d{{1,12}}\]"
# Numbers are given from there on. Larger ones that a text makes up count as placeholders, and are far from any given.
_GIVEN = re.compile(rf"\[({'|'.join(KINDS)})_(\d{{1,6}})\]")
_SPACE = "[ \u00a0\u202f.-]"  # between groups of digits; the middle two are no-break spaces

# user:password@ of a URL (RFC 3986, 3.2.1), up to the last @ before the path, since passwords may hold one.
_LOGIN = r"[A-Za-z][A-Za-z0-9+.-]{1,20}://([^\s/?#\"'<>\[\]]{1,256})@(?=[\w\[])"

# Prefixes that vendors give their keys so that scanners find them (GitHub docs, "Supported secret scanning patterns").
_PREFIXED = r"(?<![A-Za-z0-9])(?:" + "|".join(
    (
        r"sk-[A-Za-z0-9_-]{16,}+",  # Anthropic, OpenAI and others
        r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}+|whsec_[A-Za-z0-9+/=]{16,}+",  # Stripe
        r"A(?:KIA|SIA)[A-Z0-9]{16}\b",  # AWS
        r"gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_[A-Za-z0-9_]{20,}+|glpat-[A-Za-z0-9_.-]{20,}+",
        r"xox[a-z]-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{10,}+",  # Slack
        r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_.-]{20,}+|GOCSPX-[A-Za-z0-9_-]{20,}+",  # Google
        r"hf_[A-Za-z0-9]{30,}+|npm_[A-Za-z0-9]{30,}+|pypi-[A-Za-z0-9_-]{30,}+",
        r"SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+",  # SendGrid
        r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?",  # JSON Web Token, RFC 7519
    )
)
_PREFIXED += ")"
# To the end that RFC 7468 gives it or, when that was cut off, as long as lines look encoded.
_PRIVATE = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{0,40}-----|(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+)"
)
_BEARER = r"(?i)\b(?:bearer|basic)\s{1,3}((?=[^\s\"']{0,200}\d)[\w.~+/=-]{12,}+)"
# NAME = VALUE, "NAME": "VALUE", NAME is VALUE, --NAME VALUE. Without quotes a value has a digit, as a password, and a
# letter, too, as a token (`max_token=4096`), and is not the start of a call or of an index (`token = tokens2[0]`).
_PASSWORD = r"(?:pass(?:word|wd|phrase|code)|pwd)"
_TOKEN = r"(?:secret|token|credentials?|(?:api|access|secret|private|auth)[ _-]?key)"
_IS = r"(?:\\?[\"'])?\s{0,4}(?:=>|:=|[:=]|\bis\b:?)\s{0,4}"


def _named(name: str, bare: str) -> str:
    return (
        rf"(?i)(?:--{name}\s|{name}{_IS})(?!\\?[\"']?{_PLACEHOLDER})"
        r"(?:\\?\"([^\"\n\\]{4,200}+)|\\?'([^'\n\\]{4,200}+)"
        rf"|({bare}[\w./+=~!@#$%^*?-]{{6,128}}+)(?![(\[]))"
    )


_WITH_DIGIT = r"(?=[^\s\"'&,;]{0,128}\d)"
_WITH_LETTER = r"(?=[^\s\"'&,;]{0,128}[^\W\d_])"

# Local part and domain of the lengths of RFC 5321, 4.5.3.1; @ as a URL or a cautious writer spells it, too. A domain
# ends in letters, so that package@1.2.3 is none.
_EMAIL = r"(?i)[^\s@<>\"'`(),:;=&\[\]\\/|{}]{1,64}(?:@|%40|\s?[\[(]at[\])]\s?)(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}"
_IBAN = r"(?ai)(?<!\w)[A-Z]{2}\d{2}(?:[ \u00a0-]?[A-Z0-9]{1,4}){3,16}+"
# Groups as cards are embossed: fours, or 4-6-5 and 4-6-4 (ISO/IEC 7812-1 has up to 19 digits).
_CARD = (
    rf"(?<!\d)(?<!\d\.)(?:\d{{4}}{_SPACE}?\d{{4}}{_SPACE}?\d{{4}}{_SPACE}?\d{{1,4}}(?:{_SPACE}?\d{{1,3}})?"
    rf"|\d{{4}}{_SPACE}\d{{6}}{_SPACE}\d{{4,5}})(?!\d)"
)
_PHONE = (
    r"(?<!\w)(?<!\d[.,/-])("
    r"(?:\+|00)[1-9](?:[ \u00a0\u202f./()-]{0,3}\d){6,14}"  # international: at most 15 digits (ITU-T E.164)
    rf"|(?:1{_SPACE})?(?:\(\d{{3}}\)[ \u00a0]?|\d{{3}}{_SPACE})\d{{3}}{_SPACE}\d{{4}}"  # North America
    r"|\(?0\d{1,4}\)?[ \u00a0/-]{1,3}\d{3,4}(?:[ \u00a0-]?\d{2,4}){1,3}"  # national: trunk prefix 0 and area code
    rf"|0\d(?:{_SPACE}?\d\d){{4}}\d?"  # national, in pairs or unbroken, such as 06 12 34 56 78
    r")(?!\w|[.-]\d)"
)
_SAID_PHONE = (
    r"(?i)\b(?:(?:tele)?phone|tel|mobile|cell|fax|whatsapp)(?: ?(?:no|nr|number))?(?: is)?[\"']?[\s.:=#]{1,4}[\"']?"
    r"(\(?\d(?:[ ./()-]{0,2}\d){6,14})(?!\w)"
)


def redact(value: _T) -> _T:
    """`value` with placeholders for personal data and secrets: a text, or a Messages body (or any JSON) as a copy.

    Equal things get equal numbers in all of `value`; numbers that stand in it already are not given again. Encoded
    bytes (images, signatures of thinking) stay as they are. Raises InvalidRequest for some 300 levels of nesting.
    """
    try:
        return cast("_T", _Redaction(value).of(value))
    except RecursionError:
        step = "leave the request out"
        raise InvalidRequest("nested too deeply to be redacted", where="request", next_step=step) from None


class _Redaction:
    """The numbers given within one request."""

    def __init__(self, value: Any) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._last = dict.fromkeys(KINDS, 0)
        for text in _texts(value):
            for kind, number in _GIVEN.findall(text):
                self._last[kind] = max(self._last[kind], int(number))

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self.of(key): self._item(value, key, item) for key, item in value.items()}
        return [self.of(item) for item in value] if isinstance(value, list | tuple) else value

    def _item(self, holder: Mapping[Any, Any], key: Any, item: Any) -> Any:
        if _encoded(holder, key):
            return item
        if isinstance(item, str) and isinstance(key, str) and len(item) >= 4 and _SECRET_NAME.search(key):
            return item if re.fullmatch(_PLACEHOLDER, item) else self._placeholder("KEY", item)
        return self.of(item)

    def _text(self, text: str) -> str:
        """Until nothing is found: what is cut out can free a match beside it. Each round takes something out."""
        while (redacted := self._once(text)) != text:
            text = redacted
        return text

    def _once(self, text: str) -> str:
        for step in _STEPS:
            if step.may_find(text):
                text = self._cut(text, step)
        return text

    def _cut(self, text: str, step: _Step) -> str:
        out, at, look = [], 0, 0
        while match := step.pattern.search(text, look):
            span = step.span(match)
            if span is None:  # no checksum; the next group of digits may begin one
                look = match.start() + 1
                continue
            out += [text[at : span[0]], self._placeholder(step.kind, text[span[0] : span[1]])]
            at = look = span[1]
        return "".join([*out, text[at:]])

    def _placeholder(self, kind: str, found: str) -> str:
        same = found if kind in ("KEY", "LOGIN") else "".join(filter(str.isalnum, found)).casefold()
        if (kind, same) not in self._numbers:
            self._last[kind] += 1
            self._numbers[kind, same] = self._last[kind]
        return f"[{kind}_{self._numbers[kind, same]}]"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _encoded(holder: Mapping[Any, Any], key: object) -> bool:
    """Whether `key` of a content block or of its source holds bytes, not words."""
    kind = holder.get("type")
    return (key == "data" and kind in ("base64", "redacted_thinking")) or (key == "signature" and kind == "thinking")


def _found(match: re.Match[str]) -> _Span:
    """Where the only group that took part is; the whole match when there is none."""
    return match.span(match.lastindex or 0)


def _iban(match: re.Match[str]) -> _Span | None:
    """The longest start of `match` that ends with a word and has the check digits of ISO 13616: mod 97 is 1.

    The first four signs count last, letters as the numbers from 10 on.
    """
    text, (first, last) = match.string, match.span()
    head = "".join(str(int(sign, 36)) for sign in text[first : first + 4])
    found, rest, n_signs = None, 0, 4
    for at in range(first + 4, last):
        if text[at].isalnum():
            value = int(text[at], 36)
            rest = (rest * (100 if value > 9 else 10) + value) % 97
            n_signs += 1
            if n_signs > 34:
                break
            ends = at + 1 == len(text) or not text[at + 1].isalnum()
            if ends and n_signs >= 15 and (rest * 10 ** len(head) + int(head)) % 97 == 1:
                found = first, at + 1
    return found


def _card(match: re.Match[str]) -> _Span | None:
    """The match, or without its last group, if it has the check digit of ISO/IEC 7812-1 and a payment card's first."""
    first, end = match.span()
    if not 2 <= int(match[0][0]) <= 6:
        return None
    for last in (end, max(map(match[0].rfind, " \u00a0\u202f.-")) + first):
        digits = "".join(filter(str.isdigit, match.string[first:last]))
        if 13 <= len(digits) <= 19 and _luhn(digits):
            return first, last
    return None


def _luhn(digits: str) -> bool:
    return (sum(map(int, digits[-1::-2])) + sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])) % 10 == 0


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # twice a digit, its digits added


def _has(*hints: str) -> Callable[[str], bool]:
    return lambda text: any(hint in text for hint in hints)


def _has_name(text: str) -> bool:
    return _has("pass", "pwd", "secret", "token", "credential", "key")(text.lower())


_DIGIT = re.compile(r"\d[\d\W]{5}")
_COUNTRY = re.compile(r"[A-Za-z]{2}\d\d")
_SECRET_NAME = re.compile(rf"(?i)(?:{_PASSWORD}|{_TOKEN})$")


@dataclass(frozen=True, slots=True)
class _Step:
    """may_find: cheap, and False only when the pattern cannot match. span: what of a match to cut out, if anything."""

    kind: str
    pattern: re.Pattern[str]
    may_find: Callable[[str], bool]
    span: Callable[[re.Match[str]], _Span | None] = _found


def _has_number(text: str) -> bool:
    return _DIGIT.search(text) is not None


# In this order: a password may look like an address, a card number like a phone number.
_STEPS = (
    _Step("LOGIN", re.compile(_LOGIN), _has("://")),
    _Step("KEY", re.compile(_PRIVATE), _has("PRIVATE KEY")),
    _Step("KEY", re.compile(_PREFIXED), _has("-", "_", ".", "A")),
    _Step("KEY", re.compile(_BEARER), lambda text: _has("bearer", "basic")(text.lower())),
    _Step("KEY", re.compile(_named(_PASSWORD, _WITH_DIGIT)), _has_name),
    _Step("KEY", re.compile(_named(_TOKEN, _WITH_DIGIT + _WITH_LETTER)), _has_name),
    _Step("EMAIL", re.compile(_EMAIL), _has("@", "%40", "at]", "at)", "AT]", "AT)", "At]", "At)")),
    _Step("IBAN", re.compile(_IBAN), lambda text: _COUNTRY.search(text) is not None, _iban),
    _Step("CARD", re.compile(_CARD), _has_number, _card),
    _Step("PHONE", re.compile(_SAID_PHONE), _has_number),
    _Step("PHONE", re.compile(_PHONE), _has_number),
)
