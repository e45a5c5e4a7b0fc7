"""The sections of prerouter.toml as frozen records: every key with its unit and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from prerouter.records import Priority


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How an unsure request is asked about."""

    model: str = "claude-haiku-5-5"
    fall_through: Literal["wait", "async", "off"] = "wait"  # async: default label now, answer into the cache
    deadline_s: float = 3.0  # total seconds, retries and waiting included
    attempts: int = 3  # calls per request, at most
    max_in_flight: int = 256  # calls at a time; more than the burst, so that the rate is what limits
    rpm: int = 1000  # calls per minute; a burst of six seconds' worth is allowed
    cache_size: int = 10_000  # answers kept
    cache_ttl_s: float = 86_400.0
    breaker_failures: int = 5  # failures in a row that open the circuit breaker
    breaker_reset_s: float = 30.0  # seconds until one call may try again
    ask: tuple[str, ...] = ()  # any of "params", "fallback_label", "rationale"


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What happens around the label."""

    priority: Priority = "cost"
    on_failure: Literal["default", "top_tier"] = "default"  # tier when neither local nor the classifier decided
    look_s: float = 2.0  # seconds between two looks for a new champion, closed gates and the audits' rate


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The random share of all requests whose label is checked off the request path."""

    rate: float = 0.05  # probability in (0, 1], at most: it falls where traffic times rate would break a bound below
    ask: bool = True  # false: heads are marked and nobody is asked; certificates and monitor then stay unconfirmed
    rpm: int = 60  # audits per minute, per process
    usd_per_hour: float = 1.0  # US dollars for audits per hour, all processes of one log together
    queue: int = 1_000  # requests waiting for their audit, with their texts, in memory, per process


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """Comparisons off the request path: another model answers too, and a judge says which answer is better."""

    rate: float = 0.02  # share of shadowed requests that are compared, in [0, 1]
    judge: str | None = None  # model; default: the first of the strongest tier
    usd_per_day: float = 5.0  # US dollars a day for answers and judging, all processes of one log together
    concurrency: int = 4  # comparisons at a time
    queue: int = 100  # comparisons that wait, with their texts, in memory; further ones are left out


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How `Dispatch` sends a request once it is decided."""

    # Seconds from the call to the end of the answer, classification and retries included. What is not streamed is given
    # 600 by the SDK, unless `timeout` says otherwise; a stream of 128,000 tokens takes most of an hour.
    deadline_s: float = 3600.0
    attempt_s: float = 600.0  # seconds that one attempt may keep silent while another could follow
    retries: int = 2  # more tries per model, after what may pass: 429, 5xx, a broken connection, a cut answer
    fallback: Literal["availability", "quality", "off"] = "availability"  # then: tiers below, then above; above; none
    refusal_final: tuple[str, ...] = ("cyber", "bio")  # refusals of these categories are not tried on another model
    dead_model_s: float = 600.0  # seconds for which a model that answered 404 is left out
    summary: bool = False  # write the ledger's summary to the log when the client is closed


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where and what the routing log keeps."""

    path: str | None = None  # or postgresql://USER@HOST/DATABASE; default: routes.db in the state folder
    text: bool = False  # keep the rendered request text
    durable: bool = False  # survive power loss, not only a killed process; PostgreSQL: as its server is set
    queue: int = 10_000  # rows waiting for the writer before new ones are dropped and counted
    keep_days: float | None = None  # days after which a row is deleted; default: never
    max_gb: float | None = 20.0  # gigabytes beyond which the oldest rows are deleted; SQLite only


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """When live traffic raises an alarm, and what follows."""

    horizon_days: int = 30  # audits close a gate wrongly with a chance of at most 5 % in so many days
    closed_rpm: int = 120  # calls per minute and process about requests that a closed gate turned away
    window_days: float = 7.0  # recent traffic, which is compared with the training data and with what came before
    max_fallback: float = 0.08  # share of requests that end in the default label: above it is an alarm
    min_fallback: float = 0.01  # below it is a note
    webhook: str | None = None  # URL that gets new alarms as JSON by POST
    webhook_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class CostSettings:
    """What is assumed about requests when the cost of a policy is worked out from texts alone."""

    chars_per_token: float = 4.0  # English prose in the tokenizer of Claude 4.6; later ones count more, see tiers.toml
    answer_tokens: int = 400  # of an answer, the same whatever the model, thinking included
    other_tokens: int = 0  # system prompt, tools and history of a request, which a data row does not show


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """How trainings are logged to MLflow. Where: MLFLOW_TRACKING_URI, else mlflow.db in the state folder."""

    experiment: str = "prerouter"  # MLFLOW_EXPERIMENT_NAME stands above it
    model: str = "prerouter"  # registered under this name, loaded as models:/NAME@champion
    timeout_s: float = 300.0  # seconds for logging or downloading one model, MLflow's start included


@dataclass(frozen=True, slots=True)
class RetrainSettings:
    """What `prerouter retrain` learns from, and when it is worth it."""

    days: float = 30.0  # of the log, counted back from now; --since stands above it
    half_life_days: float = 30.0  # age at which a row of the log counts half when fitting
    base: tuple[str, ...] = ("labels/*.jsonl",)  # labelled files; heldout.jsonl and *.errors.jsonl are never among them
    certify_days: float = 14.0  # audited rows of these last days certify, of more where a contract takes more rows
    holdout: float = 0.2  # share of them, the newest, on which champion and challenger are compared
    learn_words: bool = False  # where log.text keeps all texts: let the guard learn new words from them
    min_new: int = 200  # labelled rows that must have come since the last retraining
    min_holdout: int = 50  # audited rows that the champion has not seen, for the comparison
    rows: int = 100_000  # of the log, the newest of each kind (audited, others), in memory at 2 to 6 KB each
    keep: int = 5  # retrained folders that are kept, beside champion and previous


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """How `prerouter label` asks."""

    model: str | None = None  # the labeller; default: classifier.model
    rpm: int | None = None  # calls per minute; default: what the API's headers name
    concurrency: int | None = None  # calls at a time; default: what that rate needs
    attempts: int = 8  # calls per question in one run, at most
    poll_s: float = 30.0  # seconds between two looks at batches that are on their way
    batch_requests: int = 10_000  # per batch; the API takes 100,000, at ten times the memory here
    batch_mb: int = 100  # per batch; the API takes 256
    batch_queue: int = 100_000  # requests in batches at a time; the lowest limit of the API is 200,000
    target: float = 0.8  # share of rows that must agree with --against


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How batches with `claude-dispatch` in them are decided and sent."""

    requests: int = 100_000  # items of one batch of the API, which takes 100,000
    megabytes: int = 250  # of one batch of the API, which takes 256
    concurrency: int = 32  # items that the classifier is asked about at a time
    patience_s: float = 120.0  # seconds without any answer of the classifier after which it is asked no more
    poll_s: float = 30.0  # seconds between two looks at a batch that is waited for


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests whose tags include all of `tags` get these limits."""

    name: str
    tags: Mapping[str, str]
    min_tier: str | None = None
    max_tier: str | None = None
    force_model: str | None = None
    priority: Priority | None = None
    # The rest is for Dispatch, see `dispatchconfig.DispatchConfig`.
    context_window: Literal["standard", "extended"] | None = None
    max_usd: Decimal | None = None
    deadline_s: float | None = None
    speculative: Literal["cheap", "generalist", "off"] | None = None
    per_step: bool | None = None
    shadow: bool | None = None
    handoff: Literal["queue", "callback"] | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What requests whose tags include all of `tags` may cost on one day (UTC), classifier included; for Dispatch."""

    name: str
    usd: Decimal  # US dollars a day
    tags: Mapping[str, str] = field(default_factory=dict)  # none: every request
    action: Literal["warn", "degrade", "refuse"] = "warn"  # when it is used up
    max_tier: str | None = None  # of degraded requests; default: the weakest tier
    warn_at: float = 0.8  # share of usd at which a first warning goes out, once a day
    webhook: str | None = None  # URL that is told of warnings by a POST of JSON
