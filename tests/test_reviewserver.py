"""The server of the review: what it answers, and whom it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prerouter.reviewserver import FILES, MAX_BODY, ReviewServer
from prerouter.reviewset import Choice, Review
from prerouter.taxonomy import Taxonomy

LABELS = ("simple", "moderate", "complex")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    """A review of three rows, the second with mark-up in it."""
    texts = ("request 0", "<script>alert(1)</script>", "request 2")
    rows = [
        {"id": f"r{n}", "text": text, "label": label} for n, (text, label) in enumerate(zip(texts, LABELS, strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    review = Review(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", Taxonomy.load(), Choice(10))
    with review, ReviewServer(review, "rows.jsonl") as made:
        serving = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield made
        made.shutdown()
        serving.join()


def _ask(
    server: ReviewServer, path: str, body: object = None, *, method: str = "POST", **headers: str | None
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Ask as the page does; a header given as None is left out."""
    own = {
        "Host": server.hosts[0],
        "Content-Type": "application/json",
        "X-Prerouter-Token": server.url.split("#")[1],
        "Origin": f"http://{server.hosts[0]}",
    }
    given = own | {name.replace("_", "-"): value for name, value in headers.items()}
    sent = json.dumps(body or {}).encode() if method == "POST" else None
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, sent, {name: value for name, value in given.items() if value is not None})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(data) if is_json else data, answer


def test_it_listens_on_loopback_only(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", sorted(FILES))
def test_the_page_is_served_under_a_policy_that_runs_nothing_else(server: ReviewServer, path: str) -> None:
    status, data, answer = _ask(server, path, method="GET", X_Prerouter_Token=None)
    policy = answer.headers["Content-Security-Policy"]
    assert (status, bool(data)) == (200, True)
    assert "default-src 'none'; script-src 'self'" in policy
    assert "unsafe" not in policy
    assert (answer.headers["Cache-Control"], answer.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_texts() -> None:
    from prerouter.reviewserver import PAGE

    for name, _ in FILES.values():
        text = (PAGE / name).read_text("utf-8")
        assert "//" not in text.replace("// ", "")
        assert not any(word in text for word in ("innerHTML", "insertAdjacent", "eval(", "document.write", "onclick"))


def test_a_review_from_start_to_end(server: ReviewServer, tmp_path: Path) -> None:
    status, said, _ = _ask(server, "/state")
    assert (status, said["standing"]["done"], said["can_undo"], said["file"]) == (200, 0, False, "rows.jsonl")
    assert [label["name"] for label in said["labels"]] == list(LABELS)
    for n in range(3):
        assert said["item"]["said"].startswith(f"Labelled {said['item']['label']}")
        _, said, _ = _ask(server, "/answer", {"key": said["item"]["key"], "label": LABELS[n]})
        assert said["standing"]["done"] == n + 1
    assert said["item"] is None
    _, said, _ = _ask(server, "/undo")
    assert said["standing"]["done"] == 2
    _, said, _ = _ask(server, "/skip", {"key": said["item"]["key"]})
    assert said["item"]
    assert _ask(server, "/finish")[1]["ended"] is True
    assert server.ended.is_set()
    assert len((tmp_path / "out.jsonl").read_text("utf-8").splitlines()) == 2


def test_an_answer_that_comes_twice_counts_once(server: ReviewServer) -> None:
    key = _ask(server, "/state")[1]["item"]["key"]
    first = _ask(server, "/answer", {"key": key, "label": "simple"})[1]
    assert _ask(server, "/answer", {"key": key, "label": "complex"})[1] == first


def test_an_unknown_label_is_an_error_that_the_page_can_show(server: ReviewServer) -> None:
    status, said, _ = _ask(server, "/answer", {"key": "x", "label": "easy"})
    assert status == 400
    assert said["error"].startswith("unknown label 'easy'")
    assert said["item"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Prerouter_Token": None},
        {"X_Prerouter_Token": "x" * 32},
        {"X_Prerouter_Token": "\u00e9"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
@pytest.mark.parametrize("path", ["/state", "/answer", "/undo", "/finish"])
def test_others_are_refused_and_change_nothing(server: ReviewServer, headers: dict[str, str | None], path: str) -> None:
    key = _ask(server, "/state")[1]["item"]["key"]
    status, said, _ = _ask(server, path, {"key": key, "label": "simple"}, **headers)
    assert (status, set(said)) == (403, {"error"})
    assert "request" not in json.dumps(said)
    assert _ask(server, "/state")[1]["standing"]["done"] == 0
    assert not server.ended.is_set()


def test_another_sites_name_for_this_address_does_not_get_the_page(server: ReviewServer) -> None:
    assert _ask(server, "/", method="GET", Host="evil.example")[0] == 403
    assert _ask(server, "/", method="GET", Host=server.hosts[1])[0] == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/../review.py"), ("GET", "/state"), ("POST", "/other")])
def test_what_there_is_not(server: ReviewServer, method: str, path: str) -> None:
    assert _ask(server, path, method=method)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_not_known(server: ReviewServer, method: str) -> None:
    assert _ask(server, "/state", method=method)[0] == 501


@pytest.mark.parametrize(
    ("length", "body"), [(None, b""), ("x", b""), (str(MAX_BODY + 1), b""), ("7", b"no json"), ("3", b"[1]")]
)
def test_questions_that_cannot_be_read_are_refused(server: ReviewServer, length: str | None, body: bytes) -> None:
    lines = [f"POST /state HTTP/1.1\r\nHost: {server.hosts[0]}\r\n", f"Content-Length: {length}\r\n" if length else ""]
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall("".join([*lines, "Content-Type: application/json\r\n\r\n"]).encode() + body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400")


def test_the_token_is_new_every_time_and_in_no_request(server: ReviewServer) -> None:
    with ReviewServer(server.review, "rows.jsonl") as other:
        assert other.url.split("#")[1] != server.url.split("#")[1]
    assert len(server.url.split("#")[1]) >= 32
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/#")


def test_a_disk_that_takes_nothing_is_told_and_the_row_stays(server: ReviewServer, tmp_path: Path) -> None:
    key = _ask(server, "/state")[1]["item"]["key"]
    server.review._saved._file.close()
    server.review._saved._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    status, said, _ = _ask(server, "/answer", {"key": key, "label": "simple"})
    assert (status, said["error"]) == (500, "Not saved: No space left on device.")
    assert (said["item"]["key"], said["standing"]["done"]) == (key, 0)
