"""The queue of requests for people, and its review in the browser's server."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path

import pytest

from prerouter.cli import main
from prerouter.errors import ConfigError
from prerouter.human import QUEUE, Case, People
from prerouter.reviewserver import ReviewServer
from prerouter.reviewset import Choice, Review
from prerouter.taxonomy import Taxonomy


def case(i: int, label: str = "simple") -> Case:
    body = {"model": "claude-dispatch", "max_tokens": 5, "messages": [{"role": "user", "content": f"Question {i}"}]}
    return Case(f"id{i}", body, label, {"team": "law"}, 1000.0 + i)


def test_cases_of_many_threads_are_whole_lines(tmp_path: Path) -> None:
    people = People(tmp_path)
    threads = [threading.Thread(target=people.hand, args=("queue", case(i))) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [json.loads(line) for line in (tmp_path / QUEUE).read_text().splitlines()]
    assert {row["id"] for row in rows} == {f"id{i}" for i in range(30)}
    assert all(set(row) == {"id", "label", "source", "queued_at", "tags", "messages"} for row in rows)


def test_a_queue_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot queue a request"):
        People(tmp_path / "file").hand("queue", case(1))


def test_the_review_shows_the_queue_in_its_order(tmp_path: Path) -> None:
    people = People(tmp_path)
    for i in (3, 1, 2):
        people.put(case(i))
    with (
        Review(tmp_path / QUEUE, tmp_path / "out.jsonl", Taxonomy.load(), Choice(200, queue=True)) as review,
        ReviewServer(review, QUEUE, 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url, token = server.url.split("#")
        seen = []
        for _ in range(3):
            key = review.current.key if review.current else ""
            seen.append(review.current.request.text if review.current else "")
            body = json.dumps({"key": key, "label": "complex"}).encode()
            headers = {"Content-Type": "application/json", "X-Prerouter-Token": token}
            urllib.request.urlopen(urllib.request.Request(url + "answer", body, headers)).close()
        server.shutdown()
        thread.join()
    assert seen == ["Question 1", "Question 2", "Question 3"]
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (row["label"], row["labelled_by"], row["reviewed"]) == (
        "complex",
        "human",
        {"label": "simple", "chosen": "queue"},
    )


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "name a file, --log or --queue"), (["--queue"], "the queue is empty")]
)
def test_what_there_is_to_review_must_be_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", *arguments]) == 2
    assert said in capsys.readouterr().err
