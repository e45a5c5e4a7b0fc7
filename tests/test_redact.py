"""What leaves the machine holds no personal data or secret that has a form, and is otherwise as it was."""

from __future__ import annotations

import json
import re
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import InvalidRequest
from prerouter.redact import KINDS, redact

PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(KINDS)})_\d+\]")
AROUND = ("please", "see", "the", "order", "of", "12", "May,", "as", "agreed:", "(urgent)", "thanks")
WORDS = st.lists(st.sampled_from(AROUND), max_size=6)


def _card(draw: st.DrawFn) -> str:
    """A number with the right check digit, grouped as people write them; found by trying the last digit."""
    length = draw(st.sampled_from((13, 14, 15, 16, 19)))
    first = str(draw(st.integers(2, 6)))
    digits = first + "".join(str(draw(st.integers(0, 9))) for _ in range(length - 2))
    whole = next(digits + str(last) for last in range(10) if _luhn(digits + str(last)))
    sizes = {15: (4, 6, 5), 14: (4, 6, 4)}.get(length, (4, 4, 4, length - 12) if length < 17 else (4, 4, 4, 4, 3))
    between = draw(st.sampled_from(("", " ", "-", "\u00a0")))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return between.join(whole[start : start + size] for start, size in zip(starts, sizes, strict=True))


def _luhn(digits: str) -> bool:
    """As Luhn's patent tells it: from the right, every second digit is doubled and the digits of the doubles added."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += sum(map(int, str(int(digit) * 2))) if place % 2 else int(digit)
    return total % 10 == 0


def _iban(draw: st.DrawFn) -> str:
    country = draw(st.sampled_from(("DE", "GB", "FR", "NO", "MT")))
    account = draw(st.text(string.ascii_uppercase + string.digits, min_size=11, max_size=27))
    moved = "".join(str(int(sign, 36)) for sign in account + country + "00")
    whole = f"{country}{98 - int(moved) % 97:02}{account}"
    between = draw(st.sampled_from(("", " ")))
    return between.join(whole[i : i + 4] for i in range(0, len(whole), 4))


def _email(draw: st.DrawFn) -> str:
    host = draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True))
    local = draw(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._+-]{0,30}[a-zA-Z0-9]", fullmatch=True))
    return f"{local}@{host}.{draw(st.sampled_from(('com', 'co.uk', 'de', 'museum')))}"


def _phone(draw: st.DrawFn) -> str:
    forms = (
        "+49 151 ### ####",
        "+1-###-###-####",
        "(###) ###-####",
        "###-###-####",
        "0044 20 #### ####",
        "06 ## ## ## ##",
    )
    form = draw(st.sampled_from((*forms, "+33(0)6########", "030 / 123 ## ##", "tel: #########", "020 #### ####")))
    return re.sub("#", lambda _: str(draw(st.integers(2, 9))), form)


def _key(draw: st.DrawFn) -> str:
    secret = draw(st.text(string.ascii_letters + string.digits, min_size=36, max_size=60))
    prefixes = ("sk-ant-api03-", "sk-proj-", "ghp_", "github_pat_", "xoxb-", "hf_", "npm_", "glpat-", "sk_live_")
    return draw(st.sampled_from(prefixes)) + secret


MAKERS = {"CARD": _card, "IBAN": _iban, "EMAIL": _email, "PHONE": _phone, "KEY": _key}


@st.composite
def secrets_in_text(draw: st.DrawFn) -> tuple[str, str, str]:
    """(kind, secret, text around it)."""
    kind = draw(st.sampled_from(sorted(MAKERS)))
    secret = MAKERS[kind](draw)
    before, after = " ".join(draw(WORDS)), " ".join(draw(WORDS))
    left, right = draw(
        st.sampled_from(((" ", " "), ("\n", "\n"), ('"', '"'), ("(", ")"), ("<", ">"), (": ", ", "), (" ", ". ")))
    )
    return kind, secret, f"{before}{left}{secret}{right}{after}"


@given(secrets_in_text())
def test_a_secret_is_gone_and_the_rest_is_there(made: tuple[str, str, str]) -> None:
    _, secret, text = made
    found = redact(text)
    assert secret not in found
    before, after = text.split(secret, 1)
    assert _words(PLACEHOLDER.sub(" ", found)) >= _words(before) | _words(after) - {"may"}
    signs = "".join(filter(str.isalnum, secret))
    if len(signs) >= 12:  # fewer may stand in the words around
        assert signs[4:] not in "".join(filter(str.isalnum, PLACEHOLDER.sub("", found)))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text))


@given(
    st.lists(secrets_in_text() | st.text(max_size=30), max_size=5).map(lambda parts: " ".join(str(p) for p in parts))
)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.text(alphabet="0123456789 +-./()@abAB:=\"'[]_KEYmailtopsw\n", max_size=120))
def test_text_made_to_confuse_is_redacted_the_same_again(text: str) -> None:
    assert redact(redact(text)) == redact(text)


PIECES = (
    "password",
    "token",
    "=",
    ": ",
    '"',
    "'",
    "[KEY_1]",
    "[KEY_999999999999]",
    "[EMAIL_2",
    "@",
    "x.de",
    "--",
    " is ",
)


@given(
    st.lists(st.sampled_from((*PIECES, "4111 1111 ", "1111", "+49 ", "(030) ", "://", "DE89", "a1b2c3", "-----BEGIN ")))
)
def test_pieces_of_secrets_and_placeholders_come_to_an_end(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert redact(redact(text)) == redact(text)
    assert redact({"password": text, "x": [text]}) == redact(redact({"password": text, "x": [text]}))


@given(secrets_in_text())
def test_a_body_is_redacted_like_its_texts_and_keeps_its_shape(made: tuple[str, str, str]) -> None:
    _, secret, text = made
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "4111111111111111"}}
    body: dict[str, Any] = {
        "system": text,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}, image]}],
    }
    found = redact(body)
    assert secret not in json.dumps(found, ensure_ascii=False)
    assert found["system"] == redact(text)
    assert found["messages"][0]["content"][0]["text"] == redact(text)
    assert (found["max_tokens"], found["messages"][0]["content"][1]) == (4096, image)
    assert body["system"] == text


@given(st.text(string.ascii_letters + " .,;:!?\n-'\"()", max_size=300))
def test_words_alone_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "At 2024-01-02 03:04:05 and 15/01/2024 10:30, from 192.168.100.200:8080",
        "550e8400-e29b-41d4-a716-446655440000 is order 48213 of 1700000000000",
        "pi is 3.14159265358979323846; add 23 45 12 67 34 22 18 90 11 2 to 1+2345678",
        "npm i left-pad@1.3.0 and @app.route('/x'); x@y in numpy; a = b @ c",
        "max_tokens=4096, token = tokens2[0], secret = load_secret2(name), password: str",
        "See https://example.com/a@b?x=1 and the tokenizer; the key is in the door",
        "4111 1111 1111 1112 has a wrong check digit, and so has DE89 2704 1044 1532 1130 01",
        "Sum of 1,234,567.89 and 0.4111111111111111",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bob@X.com wrote to bob@x.com and eve@x.com", "[EMAIL_1] wrote to [EMAIL_1] and [EMAIL_2]"),
        ("4111-1111-1111-1111 is 4111 1111 1111 1111", "[CARD_1] is [CARD_1]"),
        ("12 4111 1111 1111 1111 123 1234", "12 [CARD_1] 123 1234"),
        ("pay DE89 3704 0044 0532 0130 00 and thanks", "pay [IBAN_1] and thanks"),
        ("git clone https://me:s3cret@example.com/x.git", "git clone https://[LOGIN_1]@example.com/x.git"),
        ("postgres://u:p@ss@host:5432/db", "postgres://[LOGIN_1]@host:5432/db"),
        ('{"password": "correct horse", "n": 1}', '{"password": "[KEY_1]", "n": 1}'),
        (r"{\"api_key\": \"abcd\"}", r"{\"api_key\": \"[KEY_1]\"}"),
        ("DB_PASSWORD=hunter2 mysql --password hunter3 -u me", "DB_PASSWORD=[KEY_1] mysql --password [KEY_2] -u me"),
        ("my password is hunter22, ok?", "my password is [KEY_1], ok?"),
        ("Authorization: Bearer abc123def456ghi7", "Authorization: Bearer [KEY_1]"),
        ("AKIAIOSFODNN7EXAMPLE", "[KEY_1]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nExplain it", "[KEY_1]\nExplain it"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA7abcd\nExplain it", "[KEY_1]\nExplain it"),
        ("bob (at) example.com, bob%40example.com", "[EMAIL_1], [EMAIL_2]"),
        ('[KEY_999999] [KEY_99999999999] password="abcd"', '[KEY_999999] [KEY_99999999999] password="[KEY_1000000]"'),
        ("write to [EMAIL_3], not to eve@x.com", "write to [EMAIL_3], not to [EMAIL_4]"),
        ("call (555) 123-4567 or +49 30 901820", "call [PHONE_1] or [PHONE_2]"),
        (
            "٤١١١ ١١١١ ١١١١ ١١١١ is a card, DEK9 \u212a123 4567 8901 2 nothing",
            "[CARD_1] is a card, DEK9 \u212a123 4567 8901 2 nothing",
        ),
    ],
)
def test_what_comes_out(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_numbers_are_shared_by_all_parts_of_a_request() -> None:
    body = {"system": "Owner: eve@x.com", "messages": [{"role": "user", "content": "Mail bob@x.com, then EVE@x.com"}]}
    assert redact(body) == {
        "system": "Owner: [EMAIL_1]",
        "messages": [{"role": "user", "content": "Mail [EMAIL_2], then [EMAIL_1]"}],
    }


def test_objects_hide_secrets_by_the_name_of_their_key() -> None:
    call = {
        "type": "tool_use",
        "name": "login",
        "input": {"user": "eve", "password": "hunter2", "eve@x.com": [1, None]},
    }
    assert redact(call)["input"] == {"user": "eve", "password": "[KEY_1]", "[EMAIL_1]": [1, None]}
    schema = {"properties": {"password": {"type": "string"}, "token": {"type": "string", "minLength": 8}}}
    assert redact(schema) == schema
    assert redact(redact(call)) == redact(call)


def test_what_is_nested_beyond_reason_is_refused() -> None:
    value: Any = "eve@x.com"
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        redact(value)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "1 ", "4111 ", "a@", "+1", "password=", "AB12 ", "-----BEGIN PRIVATE KEY-----", "sk-", "00 1", "x://a"),
        *("eyJaaaaaaaaaa.", "(at)", "phone 1", 'token="', "01 23", "-----BEGIN PRIVATE KEY----- -", "password is "),
    ],
)
def test_the_time_grows_with_the_text_and_not_faster(piece: str) -> None:
    """Eight times the text takes nowhere near the 64 times of a quadratic search."""
    short, long = (piece * (size // len(piece)) for size in (8_000, 64_000))
    fast = min(_seconds(short) for _ in range(3))
    assert _seconds(long) < 30 * fast + 0.05


def _seconds(text: str) -> float:
    started = time.process_time()
    redact(text)
    return time.process_time() - started
