"""PreRouter through its public door: the shipped model, the real SDK, the strict fake server."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude

import prerouter
from prerouter import Decision, InvalidRequest, PreRouter, Settings
from prerouter.errors import ConfigError, ModelFolderError
from prerouter.files import shipped
from prerouter.sections import AuditSettings, ClassifierSettings, RouterSettings, Rule
from prerouter.taxonomy import Taxonomy

KEYS = [
    *("id", "label", "tier", "model", "decided_by", "stage", "reason", "adjusted_by", "confidence", "probabilities"),
    *("fallback_label", "rationale", "params", "audit", "audit_p", "model_folder_id", "prompt_id", "text_version"),
    *("seconds", "cost_usd"),
]
SURE = "What is the capital of Mongolia?"
UNSURE = "次の文を英語に翻訳してください。「会議は来週の火曜日に延期されました。」"


@pytest.fixture
def router(claude: FakeClaude) -> Iterator[PreRouter]:
    with claude.client() as client, PreRouter.load(client=client) as router:
        yield router


def _router(claude: FakeClaude, **settings: Any) -> PreRouter:
    return PreRouter.load(client=claude.client(), settings=Settings(**settings))


def test_a_sure_request_is_decided_locally_for_nothing(router: PreRouter, claude: FakeClaude) -> None:
    decision = router.decide(SURE)
    assert (decision.decided_by, decision.reason, decision.stage) == ("local", "above_gate", 0)
    assert (decision.label, decision.tier, decision.model) == ("simple", "haiku", "claude-haiku-5-5")
    assert decision.confidence == max(decision.probabilities.values())
    assert (decision.cost_usd, decision.prompt_id, claude.requests) == (0.0, None, [])


def test_the_last_turns_label_is_a_hint_to_the_classifier_and_part_of_what_its_answer_is_kept_for(
    router: PreRouter, claude: FakeClaude
) -> None:
    claude.script(Answer({"label": "complex", "confidence": 0.8}), Answer({"label": "simple", "confidence": 0.7}))
    hinted, plain = router.decide(UNSURE, hint="Complex"), router.decide(UNSURE)
    assert (hinted.label, plain.label) == ("complex", "simple")
    assert router.decide(UNSURE, hint="complex").label == "complex"
    assert router.decide(UNSURE, hint="no label of ours").label == "simple"  # as without one
    assert hinted.prompt_id == plain.prompt_id
    asked = [record.body["messages"][0]["content"] for record in claude.calls()]
    assert ["last turn: complex" in text for text in asked] == [True, False]
    with pytest.raises(InvalidRequest, match="hint is 3"):
        router.decide(UNSURE, hint=3)  # type: ignore[arg-type]


def test_the_last_turns_label_does_not_touch_a_local_decision(router: PreRouter) -> None:
    plain, hinted = router.decide(SURE), router.decide(SURE, hint="complex")
    assert (hinted.label, hinted.probabilities) == (plain.label, plain.probabilities)


def test_an_unsure_request_is_asked_about_and_the_answer_is_kept(router: PreRouter, claude: FakeClaude) -> None:
    claude.script(Answer({"label": "complex", "confidence": 0.8}))
    first, again = router.decide(UNSURE), router.decide(UNSURE)
    assert (first.decided_by, first.reason, first.label, first.model) == (
        *("llm", "classified", "complex"),
        "claude-opus-5-5",
    )
    assert (first.confidence, first.cost_usd > 0, first.stage) == (0.8, True, None)
    assert (again.decided_by, again.reason, again.label, again.cost_usd) == ("cache", "cached", "complex", 0.0)
    assert first.prompt_id == again.prompt_id != None  # noqa: E711
    assert len(claude.requests) == 1


def test_a_decision_has_the_contracts_keys_and_survives_json_and_pickle(router: PreRouter) -> None:
    for decision in (router.decide(SURE), router.decide(UNSURE), router.decide(SURE, force_label="complex")):
        plain = decision.to_json()
        assert list(plain) == KEYS
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert pickle.loads(pickle.dumps(decision)) == decision
        assert not decision.probabilities or abs(sum(decision.probabilities.values()) - 1) < 1e-6


def test_parameters_from_the_classifier_survive_pickle(claude: FakeClaude) -> None:
    fields = {"label": "simple", "confidence": 0.9, "params": [{"name": "language", "value": "English"}]}
    claude.script(Answer(fields))
    with _router(claude, classifier=ClassifierSettings(ask=("params",))) as router:
        decision = router.decide(UNSURE)
    assert decision.params == {"language": "English"}
    assert pickle.loads(pickle.dumps(decision)) == decision


def test_a_hundred_different_unsure_requests_at_once_are_all_asked_about(router: PreRouter, claude: FakeClaude) -> None:
    with ThreadPoolExecutor(100) as pool:
        decisions = list(pool.map(lambda i: router.decide(f"{UNSURE} {i}"), range(100)))
    assert {d.decided_by for d in decisions} == {"llm"}


def test_local_only_never_calls_and_keeps_the_probabilities(router: PreRouter, claude: FakeClaude) -> None:
    decision = router.decide(UNSURE, local_only=True)
    assert (decision.decided_by, decision.label, decision.confidence) == ("default", "moderate", 0.0)
    assert decision.reason in ("abstained_gate", "abstained_guard")
    assert set(decision.probabilities) == {"simple", "moderate", "complex"}
    assert claude.requests == []


def test_a_failing_classifier_ends_in_the_default_label(router: PreRouter, claude: FakeClaude) -> None:
    claude.always(Error(401, "authentication_error"))
    decision = router.decide(UNSURE)
    assert (decision.decided_by, decision.reason, decision.label) == ("default", "classifier_error", "moderate")
    assert decision.probabilities


def test_a_failing_classifier_goes_to_the_top_tier_by_setting(claude: FakeClaude) -> None:
    claude.always(Error(401, "authentication_error"))
    with _router(claude, router=RouterSettings(on_failure="top_tier")) as router:
        decision = router.decide(UNSURE)
        assert (decision.label, decision.tier, decision.adjusted_by) == ("moderate", "opus", ("rule:on_failure",))
        assert router.decide(UNSURE, local_only=True).tier == "sonnet"


def test_without_a_key_an_unsure_request_gets_the_default_label() -> None:
    with PreRouter.load(settings=Settings()) as router:
        decision = router.decide(UNSURE)
    assert (decision.decided_by, decision.reason, decision.cost_usd) == ("default", "no_key", 0.0)


def test_pinned_requests_run_no_model_and_ask_nobody(router: PreRouter, claude: FakeClaude) -> None:
    by_label, by_model = (
        router.decide(UNSURE, force_label="complex"),
        router.decide(UNSURE, force_model="claude-opus-5"),
    )
    assert (by_label.decided_by, by_label.label, by_label.reason) == ("pinned", "complex", "forced")
    assert (by_label.confidence, by_label.probabilities) == (1.0, {})
    assert (by_model.decided_by, by_model.model) == ("pinned", "claude-opus-5")
    assert claude.requests == []


def test_rules_by_tag_and_bounds_move_the_tier(claude: FakeClaude) -> None:
    with _router(claude, rules=(Rule("customer-facing", {"audience": "customer"}, min_tier="sonnet"),)) as router:
        decision = router.decide(SURE, tags={"audience": "customer"})
        assert (decision.label, decision.tier, decision.adjusted_by) == ("simple", "sonnet", ("rule:customer-facing",))
        assert router.decide(SURE, tags={"audience": "customer"}, min_tier="opus").adjusted_by == ("min_tier",)
        assert router.decide(SURE).tier == "haiku"


def test_nobody_is_asked_when_no_answer_could_change_the_tier(router: PreRouter, claude: FakeClaude) -> None:
    decision = router.decide(UNSURE, min_tier="opus")
    assert (decision.reason, decision.tier, decision.decided_by) == ("unprofitable", "opus", "default")
    assert claude.requests == []


def test_speed_never_asks_but_reads_the_cache(router: PreRouter, claude: FakeClaude) -> None:
    assert router.decide(UNSURE, priority="speed").reason == "fall_through_off"
    router.decide(UNSURE)
    assert router.decide(UNSURE, priority="speed").decided_by == "cache"
    assert len(claude.requests) == 1


def test_fall_through_off_by_setting(claude: FakeClaude) -> None:
    with _router(claude, classifier=ClassifierSettings(fall_through="off")) as router:
        assert router.decide(UNSURE).reason == "fall_through_off"
    assert claude.requests == []


def test_quality_decides_no_more_than_cost(router: PreRouter) -> None:
    rows = [
        json.loads(line) for line in (Path(prerouter.__file__).with_name("demo.jsonl")).read_text("utf-8").splitlines()
    ]
    bodies = [row.get("text") or {"messages": row["messages"]} for row in rows]
    for body in bodies:
        if router.decide(body, priority="quality", local_only=True).decided_by == "local":
            assert router.decide(body, local_only=True).decided_by == "local"


def test_empty_text_is_safe_and_free(router: PreRouter, claude: FakeClaude) -> None:
    for body in ("", " \n\t", "\0", {"messages": [{"role": "user", "content": []}]}):
        decision = router.decide(body)
        assert (decision.decided_by, decision.label, decision.reason) == ("default", "moderate", "abstained_guard")
    assert claude.requests == []


@pytest.mark.parametrize("body", [None, 3, b"x", [], {}, {"messages": "hi"}, {"messages": []}, {"messages": [3]}])
def test_an_illegal_body_is_an_invalid_request(router: PreRouter, body: Any) -> None:
    with pytest.raises(InvalidRequest):
        router.decide(body)


WRONG_OPTIONS: list[dict[str, Any]] = [
    *({"min_tier": "gold"}, {"force_label": "hard"}, {"force_model": "x"}, {"force_label": ""}, {"force_label": 5}),
    *({"min_tier": []}, {"force_model": {}}, {"priority": []}, {"max_wait_s": "1"}, {"max_wait_s": True}),
    *({"request_id": 5}, {"tags": "abc"}, {"conversation_id": 7}),
]


@pytest.mark.parametrize("option", WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_an_invalid_request_and_asks_nobody(
    router: PreRouter, claude: FakeClaude, option: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        router.decide(UNSURE, **option)
    assert claude.requests == []


def test_an_unknown_option_is_a_type_error(router: PreRouter) -> None:
    with pytest.raises(TypeError, match="prority"):
        router.decide(SURE, prority="cost")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 5_000_000,
        "x\0y" * 1000,
        "\ud800 lone \udfff",
        "مرحبا كيف حالك",
        "🎉" * 5000,
        "\u202e" * 100,
        "{" * 100_000,
    ],
    ids=["5MB", "nul", "surrogates", "arabic", "emoji", "bidi", "braces"],
)
def test_any_text_gets_a_decision(router: PreRouter, text: str) -> None:
    for decision in (router.decide(text), router.decide({"messages": [{"role": "user", "content": text}]})):
        json.dumps(decision.to_json(), allow_nan=False).encode()
        assert decision.label in router.taxonomy.names


def test_decide_many_is_local_and_in_order(router: PreRouter, claude: FakeClaude) -> None:
    bodies = [SURE, UNSURE, "", {"messages": [{"role": "user", "content": SURE}]}] * 50
    many = router.decide_many(bodies)
    one_by_one = [router.decide(body, local_only=True) for body in bodies]
    assert [(d.label, d.decided_by, d.reason) for d in many] == [(d.label, d.decided_by, d.reason) for d in one_by_one]
    assert router.decide_many([]) == []
    assert claude.requests == []


def test_decide_many_names_the_illegal_one(router: PreRouter) -> None:
    with pytest.raises(InvalidRequest, match=r"requests\[1\]\.messages"):
        router.decide_many([SURE, {"messages": []}])


def test_adecide_decides_the_same(claude: FakeClaude) -> None:
    async def both() -> list[Decision]:
        with claude.client() as client, PreRouter.load(client=client) as router:
            return await asyncio.gather(router.adecide(SURE), *(router.adecide(UNSURE) for _ in range(50)))

    sure, *unsure = asyncio.run(both())
    assert sure.decided_by == "local"
    assert {d.decided_by for d in unsure} <= {"llm", "cache"}
    assert len(claude.requests) == 1


def test_two_hundred_threads_with_one_request_make_one_call(router: PreRouter, claude: FakeClaude) -> None:
    with ThreadPoolExecutor(200) as pool:
        decisions = list(pool.map(lambda _: router.decide(UNSURE), range(200)))
    assert len(claude.requests) == 1
    assert len({d.label for d in decisions}) == 1
    assert sum(d.cost_usd > 0 for d in decisions) == 1
    assert len({d.id for d in decisions}) == 200


def test_the_kill_switch_is_read_per_request(router: PreRouter, claude: FakeClaude) -> None:
    for value in ("off", "of"):  # whoever misspells a kill switch meant to use it
        os.environ["PREROUTER_MODE"] = value
        decision = router.decide(SURE)
        assert (decision.decided_by, decision.reason, decision.label) == ("default", "fall_through_off", "moderate")
        assert router.decide_many([SURE])[0].decided_by == "default"
        assert router.decide(SURE, force_label="complex").tier == "opus"  # what is pinned needs no router
    os.environ["PREROUTER_MODE"] = "on"
    assert router.decide(SURE).decided_by == "local"
    del os.environ["PREROUTER_MODE"]
    assert claude.requests == []


def test_the_audit_coin_falls_at_its_rate(claude: FakeClaude) -> None:
    with _router(claude, audit=AuditSettings(rate=0.2)) as router:
        decisions = router.decide_many([SURE] * 5000)
    share = sum(d.audit for d in decisions) / 5000
    assert {d.audit_p for d in decisions} == {0.2}
    assert abs(share - 0.2) < 0.03  # five standard deviations


def test_ids_and_coins_differ_after_a_fork(router: PreRouter) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, router.decide(SURE).id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert theirs
    assert theirs != router.decide(SURE).id


def test_a_forked_child_decides_and_asks(router: PreRouter, claude: FakeClaude) -> None:
    router.decide(UNSURE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answers = [router.decide(SURE).decided_by, router.decide(UNSURE + "?").decided_by]
        os.write(write, " ".join(answers).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == "local llm"
    os.close(read)
    os.close(write)


def test_the_request_id_is_kept(router: PreRouter) -> None:
    assert router.decide(SURE, request_id="order-17").id == "order-17"
    assert router.decide(SURE, request_id="").id == ""


def test_another_taxonomy_of_the_same_labels_changes_tiers_only(claude: FakeClaude) -> None:
    labels = tuple(replace(label, tier="opus") for label in Taxonomy.load().labels)
    everything_on_opus = replace(Taxonomy.load(), labels=labels)
    with claude.client() as client, PreRouter.load(client=client, taxonomy=everything_on_opus) as router:
        decision = router.decide(SURE)
    assert (decision.label, decision.tier) == ("simple", "opus")


def test_a_taxonomy_of_other_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="train a model"):
        PreRouter.load(taxonomy=Taxonomy.inferred(["refund", "other"]))


def test_a_missing_model_folder_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="nowhere"):
        PreRouter.load(tmp_path / "nowhere")


def test_settings_may_be_tables() -> None:
    with PreRouter.load(settings={"router": {"priority": "speed"}}) as router:
        assert router.decide(UNSURE).reason == "fall_through_off"


def test_a_registry_address_is_refused_plainly() -> None:
    with pytest.raises(ConfigError, match="registry"):
        PreRouter.load("models:/prerouter@champion")


def test_a_workspaces_champion_is_served(tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(shipped("models/default"), workspace / "models" / "mine")
    (workspace / "models" / "champion").symlink_to("mine")
    (workspace / "prerouter.toml").write_text("")
    os.environ["PREROUTER_WORKSPACE"] = str(workspace)
    try:
        with PreRouter.load() as router:
            assert router.decide(SURE).decided_by == "local"
            (workspace / "models" / "mine" / "model.json").write_text("{}")
        with pytest.raises(ModelFolderError):
            PreRouter.load()
    finally:
        del os.environ["PREROUTER_WORKSPACE"]


def test_ask_labels_whatever_local_thinks(router: PreRouter, claude: FakeClaude) -> None:
    claude.script(Answer({"label": "moderate", "confidence": 0.7}))
    verdict = router.ask(SURE)
    assert (verdict.label, verdict.confidence, verdict.reason) == ("moderate", 0.7, "classified")
    assert verdict.cost_usd > 0
