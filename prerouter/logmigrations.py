"""The schema of the routing log: entry n takes a store from version n to n + 1. Entries are only added."""

from __future__ import annotations

# `rows` stays narrow, so that counting need not read the features; AUTOINCREMENT, so that a pruned row's number is
# never given to another.
_ROWS = """
    CREATE TABLE rows (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
        id TEXT NOT NULL, label TEXT NOT NULL, tier TEXT, model TEXT, decided_by TEXT NOT NULL, stage INTEGER,
        reason TEXT NOT NULL, adjusted_by TEXT NOT NULL, confidence REAL NOT NULL, probabilities TEXT NOT NULL,
        fallback_label TEXT, rationale TEXT, params TEXT NOT NULL, audit INTEGER NOT NULL, audit_p REAL NOT NULL,
        model_folder_id TEXT NOT NULL, prompt_id TEXT, text_version INTEGER NOT NULL, seconds REAL NOT NULL,
        cost_usd REAL NOT NULL,
        tags TEXT NOT NULL, text_hash TEXT NOT NULL, text TEXT, n_chars INTEGER NOT NULL, signals TEXT NOT NULL,
        reply_model TEXT, stop_reason TEXT, input_tokens INTEGER, output_tokens INTEGER, cache_read_tokens INTEGER,
        cache_write_5m_tokens INTEGER, cache_write_1h_tokens INTEGER
    );
    CREATE INDEX rows_at ON rows (at);
    CREATE TABLE features (
        seq INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL
    );
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    INSERT INTO counters VALUES ('dropped', 0);
"""

_AFTER_THE_FACT = """
    ALTER TABLE rows ADD COLUMN labelled_by TEXT;
    ALTER TABLE rows ADD COLUMN mode TEXT;
    ALTER TABLE rows ADD COLUMN scores TEXT;
    ALTER TABLE rows ADD COLUMN reply_usd REAL;
    ALTER TABLE rows ADD COLUMN baseline_usd REAL;
    ALTER TABLE rows ADD COLUMN reply_seconds REAL;
    ALTER TABLE rows ADD COLUMN first_byte_s REAL;
    ALTER TABLE rows ADD COLUMN attempts TEXT;
    CREATE INDEX rows_id ON rows (id);
    CREATE INDEX rows_heads ON rows (seq) WHERE audit = 1;
    CREATE INDEX rows_decided ON rows (decided_by, seq);
    ALTER TABLE features ADD COLUMN text_version INTEGER NOT NULL DEFAULT 1;
    CREATE INDEX features_fingerprint ON features (fingerprint)
"""

# Types that mean the same in SQLite and PostgreSQL. rollups and the like have no NULLs: '' and -1 stand for none.
_COMMON = """
    CREATE TABLE labels (
        number {number}, seq BIGINT NOT NULL, request_id TEXT NOT NULL, label TEXT, origin TEXT NOT NULL,
        labelled_by TEXT, prompt_id TEXT, confidence DOUBLE PRECISION, score DOUBLE PRECISION, outcome TEXT,
        weight DOUBLE PRECISION NOT NULL, cost_usd DOUBLE PRECISION NOT NULL, at BIGINT NOT NULL
    );
    CREATE INDEX labels_seq ON labels (seq);
    CREATE TABLE state (
        key TEXT PRIMARY KEY, value TEXT NOT NULL, version BIGINT NOT NULL, at BIGINT NOT NULL
    );
    CREATE TABLE rollups (
        hour BIGINT NOT NULL, tag TEXT NOT NULL, value TEXT NOT NULL, decided_by TEXT NOT NULL, label TEXT NOT NULL,
        reason TEXT NOT NULL, stage BIGINT NOT NULL, tier TEXT NOT NULL, model TEXT NOT NULL,
        reply_model TEXT NOT NULL, mode TEXT NOT NULL, model_folder_id TEXT NOT NULL,
        rows BIGINT NOT NULL, heads BIGINT NOT NULL, cost_usd DOUBLE PRECISION NOT NULL, replies BIGINT NOT NULL,
        attempts BIGINT NOT NULL, reply_usd DOUBLE PRECISION NOT NULL, baseline_usd DOUBLE PRECISION NOT NULL,
        priced BIGINT NOT NULL, input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
        cache_read_tokens BIGINT NOT NULL, cache_write_5m_tokens BIGINT NOT NULL, cache_write_1h_tokens BIGINT NOT NULL,
        PRIMARY KEY (tag, hour, value, decided_by, label, reason, stage, tier, model, reply_model, mode,
            model_folder_id)
    );
    CREATE TABLE latencies (
        hour BIGINT NOT NULL, what TEXT NOT NULL, path TEXT NOT NULL, bucket BIGINT NOT NULL, rows BIGINT NOT NULL,
        PRIMARY KEY (hour, what, path, bucket)
    );
    CREATE TABLE audit_counts (
        hour BIGINT NOT NULL, decided_by TEXT NOT NULL, stage BIGINT NOT NULL, label TEXT NOT NULL, truth TEXT NOT NULL,
        model_folder_id TEXT NOT NULL, labelled_by TEXT NOT NULL, prompt_id TEXT NOT NULL, rows BIGINT NOT NULL,
        PRIMARY KEY (hour, decided_by, stage, label, truth, model_folder_id, labelled_by, prompt_id)
    )
"""

# Rows up to `unrolled` were written before there were roll-ups: the writer and the readers add them, in steps.
_OLD_ROWS = """
    INSERT INTO counters SELECT 'unrolled', coalesce(max(seq), 0) FROM rows;
    INSERT INTO counters SELECT 'seq', coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'rows'
"""

SQLITE = (
    _ROWS,
    ";".join((_AFTER_THE_FACT, _COMMON.format(number="INTEGER PRIMARY KEY AUTOINCREMENT"), _OLD_ROWS)),
)

# PostgreSQL: the types differ, numbers are given by `logcommit` in both, and the key of the text hashes is a row.
_POSTGRES_ROWS = """
    CREATE TABLE rows (
        seq BIGINT PRIMARY KEY, at BIGINT NOT NULL,
        id TEXT NOT NULL, label TEXT NOT NULL, tier TEXT, model TEXT, decided_by TEXT NOT NULL, stage BIGINT,
        reason TEXT NOT NULL, adjusted_by TEXT NOT NULL, confidence DOUBLE PRECISION NOT NULL,
        probabilities TEXT NOT NULL, fallback_label TEXT, rationale TEXT, params TEXT NOT NULL, audit BIGINT NOT NULL,
        audit_p DOUBLE PRECISION NOT NULL, model_folder_id TEXT NOT NULL, prompt_id TEXT, text_version BIGINT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL, cost_usd DOUBLE PRECISION NOT NULL,
        tags TEXT NOT NULL, text_hash TEXT NOT NULL, text TEXT, n_chars BIGINT NOT NULL, signals TEXT NOT NULL,
        reply_model TEXT, stop_reason TEXT, input_tokens BIGINT, output_tokens BIGINT, cache_read_tokens BIGINT,
        cache_write_5m_tokens BIGINT, cache_write_1h_tokens BIGINT, labelled_by TEXT, mode TEXT, scores TEXT,
        reply_usd DOUBLE PRECISION, baseline_usd DOUBLE PRECISION, reply_seconds DOUBLE PRECISION,
        first_byte_s DOUBLE PRECISION, attempts TEXT
    );
    CREATE INDEX rows_at ON rows (at);
    CREATE INDEX rows_id ON rows (id);
    CREATE INDEX rows_heads ON rows (seq) WHERE audit = 1;
    CREATE INDEX rows_decided ON rows (decided_by, seq);
    CREATE TABLE features (
        seq BIGINT PRIMARY KEY, fingerprint TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
        data BYTEA NOT NULL, text_version BIGINT NOT NULL
    );
    CREATE INDEX features_fingerprint ON features (fingerprint);
    CREATE TABLE log_key (key BYTEA NOT NULL);
    CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
    INSERT INTO counters VALUES ('dropped', 0), ('unrolled', 0), ('seq', 0)
"""

POSTGRES = (";".join((_POSTGRES_ROWS, _COMMON.format(number="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"))),)
