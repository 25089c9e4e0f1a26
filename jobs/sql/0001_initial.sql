-- The index over the job directories. It holds nothing that they do not, and can be rebuilt.
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    manifest TEXT,
    engine TEXT NOT NULL,
    state TEXT NOT NULL,
    cores INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    gpu_ids TEXT NOT NULL DEFAULT '[]',
    idempotency_key TEXT UNIQUE,
    request_sha256 TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    changed_at REAL NOT NULL,
    heartbeat_at REAL,
    last_event TEXT,
    cancel_at REAL,
    cancel_reason TEXT,
    cancel_grace_s REAL,
    wait_reason TEXT,
    exit_code INTEGER,
    signal TEXT,
    reason TEXT,
    progress TEXT
) STRICT;

CREATE INDEX job_by_state ON job (state, seq);
CREATE INDEX job_by_project ON job (project, state, seq);
CREATE INDEX job_by_project_any ON job (project, seq);

CREATE INDEX job_by_end ON job (ended_at);
CREATE INDEX job_to_cancel ON job (seq) WHERE state = 'queued' AND cancel_at IS NOT NULL;
CREATE INDEX job_unexplained ON job (seq) WHERE state = 'queued' AND wait_reason IS NULL;

CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    job_seq INTEGER NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT
) STRICT;

CREATE INDEX event_by_job ON event (job_seq, seq);

-- An event is written by the database itself, in the transaction of the move that it tells of.
CREATE TRIGGER job_accepted AFTER INSERT ON job
BEGIN
    INSERT INTO event (job_seq, at, event, state)
    VALUES (NEW.seq, NEW.changed_at, 'accepted', NEW.state);
END;

CREATE TRIGGER job_moved AFTER UPDATE OF state ON job
BEGIN
    INSERT INTO event (job_seq, at, event, state, detail)
    VALUES (NEW.seq, NEW.changed_at, NEW.last_event, NEW.state, NEW.reason);
END;
