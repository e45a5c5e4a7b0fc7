"""Keys, the list of models, and the offline client; how calls fail is in test_claude."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from fake_claude import Error, FakeClaude

from prerouter.claude import Classifier
from prerouter.errors import UpstreamError
from prerouter.records import Request
from prerouter.sdk import has_key, list_models, offline_client
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable, compare

MODELS = "/v1/models"


@pytest.fixture
def key(claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)


def test_where_a_key_may_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert not has_key()
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    assert has_key()
    with anthropic.Anthropic(credentials=lambda **_: anthropic.AccessToken(token="t")) as given:
        assert has_key(given)


@pytest.mark.usefixtures("key")
def test_the_list_of_models_agrees_with_the_table(claude: FakeClaude) -> None:
    listing = list_models(ClassifierSettings())
    assert {"active", "deprecated", "retired"} == {info["lifecycle"] for info in listing}
    assert "claude-haiku-5-5" in {info["id"] for info in listing}
    assert compare(TierTable.load(), listing) == []
    assert claude.calls() == []


@pytest.mark.usefixtures("key")
def test_a_list_that_cannot_be_had(claude: FakeClaude) -> None:
    claude.script(Error(401), path=MODELS)
    with pytest.raises(UpstreamError, match="HTTP 401 authentication_error") as caught:
        list_models(ClassifierSettings())
    assert isinstance(caught.value.cause, anthropic.AuthenticationError)


@pytest.mark.usefixtures("key")
def test_a_list_behind_redirects_in_a_circle(claude: FakeClaude) -> None:
    claude.always(Error(307, headers={"location": MODELS}), path=MODELS)
    with pytest.raises(UpstreamError, match="TooManyRedirects"):
        list_models(ClassifierSettings())
    assert len(claude.requests) == 2 * 3, "the SDK's one retry, too"


@pytest.mark.usefixtures("key")
def test_an_offline_client_answers_without_a_network(claude: FakeClaude) -> None:
    asked: list[Any] = []

    def answer(body: Any) -> dict[str, Any]:
        asked.append(body)
        text = {"type": "text", "text": '{"label": "complex", "confidence": 0.6}'}
        return {"content": [text], "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 1}}

    with offline_client(answer) as client:
        classifier = Classifier(Taxonomy.load(), TierTable.load(), ClassifierSettings(), client=client)
        verdict = classifier.classify(Request("Prove it.", "", (), 1, 9))
        classifier.close()
    assert (verdict.label, verdict.confidence) == ("complex", 0.6)
    assert asked[0]["model"] == "claude-haiku-5-5"
    assert claude.requests == []
