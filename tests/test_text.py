"""render: any legal body becomes one bounded text and its signals."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from anthropic.types import TextBlock, ToolUseBlock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdk_bodies import BODIES

from prerouter.errors import ConfigError, InvalidRequest
from prerouter.records import Request
from prerouter.text import MAX_CHARS, SIGNAL_NAMES, TEXT_VERSION, VERSIONS, render

SYSTEM = "You are the support assistant of Tallyport. " * 300
TOOLS = [{"name": "search", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "web_search"}]
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


def user(*content: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": content[0] if len(content) == 1 and isinstance(content[0], str) else list(content),
    }


def assistant(*content: Any) -> dict[str, Any]:
    return {**user(*content), "role": "assistant"}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def returned(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


def asked(name: str = "search") -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}


def shown(*messages: dict[str, Any]) -> str:
    return render({"messages": list(messages)}).text


def signal(request: Request, name: str) -> float:
    return request.signals[SIGNAL_NAMES.index(name)]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" * 500}}
QUESTION = "Which of these two contracts lets us leave earlier?"


# Every legal body.


@settings(parent=QUIET, max_examples=2_000)
@given(BODIES)
def test_every_body_of_the_sdks_types_renders(body: dict[str, Any]) -> None:
    request = render(body)
    request.text.encode()
    request.context.encode()
    assert "\x00" not in request.text + request.context
    assert len(request.text) <= MAX_CHARS
    assert len(request.context) <= 400
    assert len(request.signals) == len(SIGNAL_NAMES)
    assert all(0 <= value <= 3 for value in request.signals)
    assert request.n_chars >= 0
    assert request.text_version == TEXT_VERSION
    other = render({**body, "system": SYSTEM, "tools": TOOLS})
    assert (request.text, request.signals, request.n_chars) == (other.text, other.signals, other.n_chars)


@settings(parent=QUIET, max_examples=500)
@given(
    st.text(
        st.characters(exclude_characters="\x00\r", exclude_categories=["Cs"]) | st.sampled_from("<>\n 0"),
        max_size=9_000,
    )
)
def test_a_rendered_text_renders_as_itself(text: str) -> None:
    once = render(text).text
    assert render(once).text == once


@pytest.mark.parametrize("text", ["Hello", QUESTION * 400, "", "a\x00b\ud800"])
def test_a_string_and_its_one_message_body_are_the_same_request(text: str) -> None:
    assert render(text) == render({"messages": [user(text)]}) == render({"messages": [user(words(text))]})


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\x00", " \x00 " * 1_000_000])
def test_blank_text_is_legal_and_empty(text: str) -> None:
    request = render(text)
    assert request.text == ""
    assert request.n_chars == len(text)


def test_an_ordinary_text_is_left_as_it_is() -> None:
    code = 'def f(x):\n    if x:\n        return [x]\n\n    return None  # e.g. "none"'
    assert render(code).text == code


# Cutting.


def test_a_long_text_keeps_head_and_tail_and_says_how_much_is_cut() -> None:
    body = "".join(f"clause {i} says something else; " for i in range(150_000))
    request = render(f"Summarise the contract. {body} Answer in two sentences.")
    assert request.text.startswith("Summarise the contract. clause 0 ")
    assert request.text.endswith(" Answer in two sentences.")
    assert len(request.text) <= MAX_CHARS
    head, tail = request.text.split("\n[")[0], request.text.split("cut]\n")[1]
    assert f"[{request.n_chars - len(head) - len(tail):,} characters cut]" in request.text
    assert request.n_chars > 5_000_000


def test_a_text_of_exactly_the_limit_is_not_cut() -> None:
    text = ("word " * MAX_CHARS)[: MAX_CHARS - 1] + "d"
    assert render(text).text == text
    assert "characters cut]" in render(text + "e").text


def test_nul_is_dropped_and_surrogates_are_mended() -> None:
    assert render("a\x00b \ud83d\ude00 \ud800").text == "ab 😀 \ufffd"


def test_line_ends_do_not_matter() -> None:
    assert render("a\r\nb\rc").text == render("a\nb\nc").text == "a\nb\nc"


@pytest.mark.parametrize("tag", ["system-reminder", "environment_context", "ide_opened_file", "local-command-stdout"])
def test_what_a_harness_added_is_cut_with_a_marker(tag: str) -> None:
    noise = f"<{tag}>{'Remember the todo list. ' * 200}</{tag}>"
    assert render(f"{noise}\nFix the login bug.").text == f"[{len(noise):,} characters cut]\nFix the login bug."


def test_harness_noise_does_not_push_out_what_the_user_wrote() -> None:
    noise = f"<system-reminder>{'x y ' * 200_000}</system-reminder>"
    assert "Fix the login bug." in render(f"{noise}{noise}Fix the login bug.{noise}").text


def test_a_question_about_a_harness_tag_is_kept() -> None:
    text = "What does <system-reminder> mean in a prompt?"
    assert render(text).text == text


@pytest.mark.parametrize("token", ["iVBORw0KGgo" * 90, "0123456789abcdef" * 40, "{'a':[1,2]}," * 200])
def test_a_long_unbroken_token_is_cut_in_its_middle(token: str) -> None:
    text = render(f"What is this? {token} Be brief.").text
    assert text == f"What is this? {token[:40]} [{len(token) - 60:,} characters cut] {token[-20:]} Be brief."


def test_wrapped_base64_is_cut() -> None:
    lines = "\n".join(chr(65 + i % 26) * 8 + "QWxhZGRpbjpvcGVu" * 4 for i in range(60))
    text = render(f"Decode this:\n{lines}\nand tell me the issuer").text
    assert len(text) < 900
    assert text.endswith("characters cut]\nand tell me the issuer")


def test_a_language_without_spaces_is_no_long_token() -> None:
    text = "请把下面的合同翻译成英文并解释每一条款的含义" * 100
    assert render(text).text == text


def test_log_lines_that_differ_in_digits_only_are_cut() -> None:
    log = [f"2026-11-{i % 28:02d} 12:00:{i % 60:02d} INFO worker {i} finished batch {i * 7}" for i in range(500)]
    text = render("\n".join(["Why did it stop?", *log, "ERROR out of memory", "Thanks"])).text
    assert text.count("finished batch") == 10
    assert text.endswith("characters cut]\nERROR out of memory\nThanks")


def test_a_small_table_is_left_whole() -> None:
    table = "\n".join(f"2026-11-{i:02d},Lisbon,{i * 3},{i * 5},{i * 7},{i * 11},{i * 13}" for i in range(10, 20))
    assert render(f"Sum the last column\n{table}").text == f"Sum the last column\n{table}"


def test_blank_space_is_shortened() -> None:
    assert render("a" + " " * 500 + "b" + "\n \n\t\n\n" * 300 + "c").text == "a" + " " * 24 + "b\n\nc"


ATTACKS = {
    "open tags": "<system-reminder>",
    "open tags with attributes": "<ide_selection " + "a" * 190,
    "many kinds of tags": "<system-reminder><ide_selection><bash-stdout><environment_context></ide_selection>",
    "angle brackets": "<",
    "braces": "{",
    "spaces": " x" + " " * 24,
    "spaces before line ends": " " * 20 + "\n",
    "tokens just below the limit": "a" * 119 + " ",
    "other tokens just below the limit": "." * 999 + " ",
    "lines": "\n-",
    "surrogates": "\ud800",
    "halves of pairs": "\ude00\ud83d",
    "quotes": "\"'`",
}


def seconds(text: str) -> float:
    started = time.thread_time()
    render(text)
    return time.thread_time() - started


def test_many_different_unclosed_tags_are_no_attack() -> None:
    assert seconds("".join(f"<ide_{chr(97 + i % 26) * (i % 50)}{i}>" for i in range(150_000))) < 1.0


@pytest.mark.parametrize("unit", ATTACKS.values(), ids=ATTACKS)
def test_time_does_not_grow_faster_than_the_text(unit: str) -> None:
    small, large = (unit * (n // len(unit)) for n in (500_000, 5_000_000))
    assert seconds(large) < 1.0
    assert seconds(large) < 40 * min(seconds(small) for _ in range(3)) + 0.05


def test_the_longest_conversation_the_api_takes_is_quick() -> None:
    turns = [user("And the next?"), assistant(words("Done."), asked()), user(returned("ok"))]
    messages = (turns * 33_333)[:-1]
    started = time.thread_time()
    assert "Current user turn: And the next?" in shown(*messages)
    assert time.thread_time() - started < 3.0


# The current user turn.


def test_an_earlier_question_and_answer_stand_before_a_follow_up() -> None:
    text = shown(
        user("Write a one line tagline for Leadly"), assistant("Happy walks."), user("ok shorter, max 4 words")
    )
    assert text == (
        "Earlier user turn: Write a one line tagline for Leadly\nEarlier assistant turn: Happy walks.\n"
        "Current user turn: ok shorter, max 4 words"
    )


def test_only_the_last_two_turns_are_shown_with_a_follow_up() -> None:
    text = shown(user("first"), assistant("one"), user("second"), assistant("two"), user("third"))
    assert text == "Earlier user turn: second\nEarlier assistant turn: two\nCurrent user turn: third"


def test_the_current_turn_dominates_a_follow_up() -> None:
    current = "Now compare the clauses on liability and on leaving. " * 100
    text = shown(user("Read this. " * 5_000), assistant("It says. " * 5_000), user(current))
    earlier, now = text.split("Current user turn: ")
    assert len(now) > 9 * len(earlier)
    assert earlier.count("characters cut]") == 2


def test_all_parts_of_a_text_share_its_limit() -> None:
    long = "Now compare the clauses on liability. " * 1_000
    talk = [user(long), assistant(long), user(long), assistant(asked()), user(returned(long))]
    assert MAX_CHARS - 100 < len(shown(*talk)) <= MAX_CHARS


def test_a_follow_up_keeps_the_shape_signals_of_its_own_turn() -> None:
    alone = render(QUESTION)
    later = render({"messages": [user("def f(): pass\n" * 50), assistant("ok"), user(QUESTION)]})
    place = SIGNAL_NAMES.index("follow_up")
    assert later.signals[:place] == alone.signals[:place]
    assert signal(later, "follow_up") == 1.0
    assert signal(alone, "follow_up") == 0.0


def test_consecutive_user_messages_are_one_turn() -> None:
    assert shown(user("Here is the log."), user("Why did it stop?")) == "Here is the log.\nWhy did it stop?"


def test_in_a_tool_loop_the_last_question_stays_the_current_turn() -> None:
    text = shown(user(QUESTION), assistant(asked()), user(returned("two files found")))
    assert text == f"{QUESTION}\n\n[tool results] two files found"


def test_the_same_question_keeps_its_shape_signals_through_a_tool_loop() -> None:
    messages = [
        user(QUESTION),
        assistant(asked()),
        user(returned([words("x" * 90)]), words("<system-reminder>a</system-reminder>")),
    ]
    start = render({"messages": messages[:1]})
    looping = render({"messages": messages})
    assert signal(looping, "log_first_line") == signal(start, "log_first_line")
    assert signal(looping, "log_tool_results") > signal(start, "log_tool_results") == 0.0


def test_only_a_head_of_the_last_tool_results_is_shown() -> None:
    loop = [
        user(QUESTION),
        assistant(asked()),
        user(returned("old")),
        assistant(asked()),
        user(returned("new " * 5_000)),
    ]
    text = shown(*loop)
    assert "old" not in text
    assert text.startswith(f"{QUESTION}\n\n[tool results] new new")
    assert len(text) < 700


def test_words_beside_a_tool_result_are_the_current_turn() -> None:
    text = shown(user(QUESTION), assistant(asked()), user(returned("a"), words("No, look in the other file.")))
    assert "Current user turn: No, look in the other file.\n\n[tool results] a" in text


def test_harness_text_beside_a_tool_result_is_no_turn() -> None:
    reminder = words("<system-reminder>Use the todo list.</system-reminder>")
    text = shown(user(QUESTION), assistant(asked()), user(returned("a"), reminder))
    assert text == f"{QUESTION}\n\n[tool results] a"


def test_a_conversation_of_tool_results_only_still_has_a_text() -> None:
    assert shown(assistant(asked("ls")), user(returned("a.txt"))) == (
        "Earlier assistant turn: [tool_use: ls]\nCurrent user turn: \n\n[tool results] a.txt"
    )


def test_a_prefill_changes_nothing() -> None:
    assert shown(user(QUESTION), assistant("The first one,")) == QUESTION


def test_without_a_user_turn_there_is_no_text() -> None:
    request = render({"messages": [assistant("Hello, how can I help?")]})
    assert request.text == ""
    assert signal(request, "follow_up") == 0.0


def test_a_turn_of_images_only_is_a_turn() -> None:
    assert shown(user(IMAGE)) == "[image]"
    assert shown(user("What is it?"), assistant("A cat."), user(IMAGE, IMAGE)).endswith("Current user turn: [image] x2")


# Blocks.


def test_image_data_is_never_shown() -> None:
    assert shown(user(IMAGE, words("What is this?"))) == "[image]\nWhat is this?"


def test_a_text_document_is_shortened_beside_its_question() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "The tenant shall pay. " * 2_000}
    request = render({"messages": [user({"type": "document", "title": "Lease", "source": source}, words(QUESTION))]})
    assert request.text.startswith("[document] Lease\nThe tenant shall pay.")
    assert request.text.endswith(QUESTION)
    assert len(request.text) < 1_200
    assert request.n_chars > 44_000


def test_a_document_of_content_blocks_is_read_and_a_pdf_is_not() -> None:
    blocks = {"type": "document", "source": {"type": "content", "content": [words("Clause 1"), IMAGE]}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}}
    assert shown(user(blocks, pdf)) == "[document] Clause 1\n[image]\n[document]"


def test_a_search_result_shows_its_title_and_text() -> None:
    block = {"type": "search_result", "source": "https://a.example", "title": "Prices", "content": [words("4.50 each")]}
    assert shown(user(block, words("How much?"))) == "[search_result] Prices\n4.50 each\nHow much?"


def test_server_tools_and_thinking_of_the_assistant_do_not_hide_its_answer() -> None:
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "title": "T"}],
    }
    thinking = {"type": "thinking", "thinking": "secret", "signature": "x"}
    used = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    text = shown(user("Who won?"), assistant(thinking, used, found, words("Ajax did.")), user("By how much?"))
    assert "Earlier assistant turn: [server_tool_use: web_search] Ajax did.\n" in text


@pytest.mark.parametrize("kind", ["container_upload", "hologram", "x" * 5_000])
def test_an_unknown_block_is_a_placeholder(kind: str) -> None:
    text = shown(user({"type": kind, "anything": [1, {2}]}, words("Look.")))
    assert text.startswith(f"[{kind[:20]}")
    assert text.endswith("\nLook.")
    assert len(text) < 100


def test_blocks_of_a_reply_may_be_passed_back_as_objects() -> None:
    text_block = TextBlock(type="text", text="Let me look.", citations=None)
    tool_block = ToolUseBlock(type="tool_use", id="toolu_1", name="search", input={"q": "x"}, caller={"type": "direct"})
    text = shown(user("Find it"), assistant(text_block, tool_block), user(returned("none")), user("Try again"))
    assert "Earlier assistant turn: Let me look. [tool_use: search]" in text


def test_deeply_nested_blocks_neither_raise_nor_take_long() -> None:
    block: Any = words("deep")
    for _ in range(5_000):
        block = returned([block])
    assert shown(user(block, words("Look."))).startswith("Look.\n\n[tool results]")


def test_a_body_is_not_changed() -> None:
    body = {"messages": [user("Find it"), assistant(asked()), user(returned([words("a")]), IMAGE)], "tools": TOOLS}
    before = json.dumps(body)
    render(body)
    assert json.dumps(body) == before


# System prompts and tools.


def test_a_system_prompt_and_tools_are_in_the_context_only() -> None:
    plain = render({"messages": [user(QUESTION)]})
    full = render({"messages": [user(QUESTION)], "system": [words(SYSTEM)], "tools": TOOLS})
    assert (full.text, full.signals) == (plain.text, plain.signals)
    assert plain.context == ""
    assert full.context.startswith("System: You are the support assistant of Tallyport.")
    assert full.context.endswith("Tools: search, web_search")


def test_a_system_message_in_the_conversation_is_in_the_context_only() -> None:
    talk = [user("Hi"), assistant("Hello"), user(QUESTION)]
    plain, steered = (
        render({"messages": talk}),
        render({"messages": [*talk, {"role": "system", "content": "Be terse."}]}),
    )
    assert (steered.text, steered.signals) == (plain.text, plain.signals)
    assert steered.context == "System: Be terse."


def test_the_context_is_short_whatever_it_is_made_of() -> None:
    tools = [{"name": f"tool_{i:03d}"} for i in range(500)]
    context = render({"messages": [user("Hi")], "system": SYSTEM, "tools": tools}).context
    assert len(context) <= 400
    assert "Tools: tool_000, tool_001" in context


def test_the_context_holds_the_head_of_a_long_system_prompt() -> None:
    prompt = "".join(f"Rule {i} is a rule. " for i in range(1_000))
    context = render({"messages": [user("Hi")], "system": prompt}).context
    assert context.startswith("System: Rule 0 is a rule. Rule 1 is a rule.")
    assert context.endswith("characters cut]")


# Signals.


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("log_chars", "short", "a longer text than that"),
        ("log_original_chars", "word " * 1_200, "word " * 9_000),
        ("log_lines", "a b", "a\nb"),
        ("log_sentences", "One two", "One. Two"),
        ("log_list_items", "a and b", "- a\n2. b"),
        ("log_first_line", "a\nbcd", "abc\nd"),
        ("log_quotes", "say hi", 'say "hi"'),
        ("log_questions", "why", "why? how"),
        ("log_code_fences", "x = 1", "```x = 1```"),
        ("log_constraints", "Say it", "It must rhyme"),
        ("ends_with_question", "why? ok", "ok, why?"),
        ("digit_share", "two", "22"),
        ("bracket_share", "f x", "f(x)"),
        ("uppercase_share", "abc", "ABC"),
        ("non_ascii_share", "hello", "héllo"),
        ("word_length", "a b c", "abcdef ghijkl"),
    ],
)
def test_a_shape_signal_grows_with_what_it_is_named_after(name: str, low: str, high: str) -> None:
    assert signal(render(low), name) < signal(render(high), name) <= 3.0


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("log_images", IMAGE),
        ("log_documents", {"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}}),
        ("log_documents", {"type": "container_upload", "file_id": "file_1"}),
        ("log_tool_results", returned("x")),
    ],
)
def test_a_body_signal_counts_its_blocks(name: str, block: dict[str, Any]) -> None:
    none, one, many = (render({"messages": [user(words("Look."), *[block] * n)]}) for n in (0, 1, 30))
    assert 0.0 == signal(none, name) < signal(one, name) < signal(many, name)


def test_turns_are_counted() -> None:
    talk = [user("a"), assistant("b")]
    long, short = render({"messages": talk * 20}), render({"messages": talk})
    assert signal(long, "log_turns") > signal(short, "log_turns") > 0


def test_signals_of_an_empty_text_are_finite() -> None:
    assert all(math.isfinite(value) for value in render("").signals)


def test_measuring_a_short_request_is_cheap() -> None:
    text = "How do I reverse a list in Python without changing the original one, and what does it cost? Thanks!!"
    best = min(seconds(text) for _ in range(200))
    assert best < 0.000_5  # 12 microseconds where it was measured; the bound only catches a change of order


# Versions and illegal bodies.


def test_every_version_renders_and_is_named_on_the_request() -> None:
    assert TEXT_VERSION in VERSIONS
    assert {version: render("Hi", version=version).text_version for version in VERSIONS} == {v: v for v in VERSIONS}


@pytest.mark.parametrize("version", [0, 99, None, "1"])
def test_an_unknown_version_names_the_known_ones(version: Any) -> None:
    with pytest.raises(ConfigError, match=r"unknown text version .*; known: 1 "):
        render("Hi", version=version)


@pytest.mark.parametrize("body", [None, 5, b"Hi", ["Hi"], {}, {"messages": []}, {"messages": "Hi"}])
def test_what_is_no_body_is_an_invalid_request(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        render(body)
