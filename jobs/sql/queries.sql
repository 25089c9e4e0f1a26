-- Every statement of the store. Each write is one statement, so that each is one transaction,
-- which SQLite begins as a writer at once: no lock is upgraded, no transaction stays open.

-- name: insert_job
-- No row means that the key is another job's already.
INSERT INTO job (
    id, project, name, manifest, engine, state, cores, memory_mb, gpus, idempotency_key,
    request_sha256, created_at, changed_at, parent, sweep, sweep_index, sweep_values
)
VALUES (
    :id, :project, :name, :manifest, :engine, :state, :cores, :memory_mb, :gpus, :idempotency_key,
    :request_sha256, :created_at, :created_at, :parent, :sweep, :sweep_index, :sweep_values
)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING *

-- name: insert_jobs
-- Those of a sweep; for one job this way takes SQLite half as long again. All or none: no row means that the key of the first is another job's already.
INSERT INTO job (
    id, project, name, manifest, engine, state, cores, memory_mb, gpus, idempotency_key,
    request_sha256, created_at, changed_at, parent, sweep, sweep_index, sweep_values
)
SELECT
    value ->> 'id', value ->> 'project', value ->> 'name', value ->> 'manifest',
    value ->> 'engine', value ->> 'state', value ->> 'cores', value ->> 'memory_mb',
    value ->> 'gpus', value ->> 'idempotency_key', value ->> 'request_sha256',
    value ->> 'created_at', value ->> 'created_at', value ->> 'parent', value ->> 'sweep',
    value ->> 'sweep_index', value ->> 'sweep_values'
FROM json_each(:jobs)
WHERE NOT EXISTS (SELECT 1 FROM job WHERE idempotency_key = :key)
ORDER BY key
RETURNING *

-- name: get_job
SELECT * FROM job WHERE id = :id

-- name: get_job_by_key
SELECT * FROM job WHERE idempotency_key = :key

-- name: move_job
-- One guarded step: no row means that someone moved it first.
UPDATE job SET
    state = :new,
    changed_at = :at,
    last_event = :event,
    started_at = coalesce(:started_at, started_at),
    ended_at = coalesce(:ended_at, ended_at),
    gpu_ids = coalesce(:gpu_ids, gpu_ids),
    exit_code = coalesce(:exit_code, exit_code),
    signal = coalesce(:signal, signal),
    reason = coalesce(:reason, reason),
    outcome = coalesce(:outcome, outcome),
    wait_reason = NULL
WHERE id = :id AND state = :old RETURNING seq

-- name: claim_job
-- The start of a queued job that nobody wishes to cancel.
UPDATE job SET
    state = :new,
    changed_at = :at,
    last_event = :event,
    attempt = attempt + 1,
    gpu_ids = :gpu_ids,
    wait_reason = NULL
WHERE id = :id AND state = :old AND cancel_at IS NULL RETURNING seq

-- name: wish_cancel
-- Changes no state. The first wish stands; a later one can only shorten the grace.
UPDATE job SET
    cancel_at = coalesce(cancel_at, :at),
    cancel_reason = CASE WHEN cancel_at IS NULL THEN :reason ELSE cancel_reason END,
    cancel_grace_s = coalesce(min(cancel_grace_s, :grace_s), cancel_grace_s, :grace_s)
WHERE id = :id

-- name: set_progress
UPDATE job SET progress = :progress WHERE id = :id

-- name: set_heartbeats
UPDATE job SET heartbeat_at = :at WHERE id IN (SELECT value FROM json_each(:ids))

-- name: note
UPDATE job SET wait_reason = :reason
WHERE id = :id AND state IN (SELECT value FROM json_each(:states))

-- name: note_waiting
UPDATE job SET wait_reason = :reason
WHERE state = 'queued' AND wait_reason IS NULL AND engine = 'local'

-- name: note_too_large
UPDATE job SET wait_reason = :reason
WHERE state = 'queued' AND wait_reason IS NULL AND engine = 'local'
    AND (cores > :cores OR memory_mb > :memory_mb OR gpus > :gpus)

-- name: any_unexplained
SELECT 1 FROM job
WHERE state = 'queued' AND wait_reason IS NULL AND engine = 'local' LIMIT 1

-- name: any_queued
SELECT 1 FROM job WHERE state = 'queued' LIMIT 1

-- name: next_fitting
SELECT * FROM job
WHERE state = 'queued' AND engine = 'local' AND cancel_at IS NULL
    AND cores <= :cores AND memory_mb <= :memory_mb AND gpus <= :gpus
ORDER BY seq LIMIT 1

-- name: queued_elsewhere
SELECT * FROM job
WHERE state = 'queued' AND engine <> 'local' AND cancel_at IS NULL
ORDER BY seq LIMIT :limit

-- name: queued_to_cancel
SELECT * FROM job WHERE state = 'queued' AND cancel_at IS NOT NULL ORDER BY seq

-- name: list_in_states
SELECT * FROM job
WHERE state IN (SELECT value FROM json_each(:states))
ORDER BY seq LIMIT :limit

-- name: count_by_state
SELECT state, count(*) AS jobs FROM job
WHERE state IN (SELECT value FROM json_each(:states))
GROUP BY state

-- name: list_newest
-- Of a sweep its first job stands for all.
SELECT * FROM job
WHERE seq < :before AND (
    sweep IS NULL OR seq = (SELECT min(other.seq) FROM job AS other WHERE other.sweep = job.sweep)
)
ORDER BY seq DESC LIMIT :limit

-- name: list_newest_in_state
SELECT * FROM job
WHERE state = :state AND seq < :before
ORDER BY seq DESC LIMIT :limit

-- name: list_newest_in_project
SELECT * FROM job
WHERE project = :project AND seq < :before AND (
    sweep IS NULL OR seq = (SELECT min(other.seq) FROM job AS other WHERE other.sweep = job.sweep)
)
ORDER BY seq DESC LIMIT :limit

-- name: list_sweep
SELECT * FROM job WHERE sweep = :sweep ORDER BY seq LIMIT :limit

-- name: count_sweeps
SELECT sweep, state, count(*) AS jobs FROM job
WHERE sweep IN (SELECT value FROM json_each(:sweeps))
GROUP BY sweep, state

-- name: list_newest_in_project_and_state
SELECT * FROM job
WHERE project = :project AND state = :state AND seq < :before
ORDER BY seq DESC LIMIT :limit

-- name: list_ended_before
SELECT * FROM job
WHERE ended_at < :before AND state IN (SELECT value FROM json_each(:states)) AND seq > :after
ORDER BY seq LIMIT :limit

-- name: list_ids_like
SELECT id FROM job WHERE id LIKE :pattern ESCAPE '\'
UNION ALL SELECT DISTINCT sweep FROM job WHERE sweep LIKE :pattern ESCAPE '\'
ORDER BY id DESC LIMIT :limit

-- name: list_events
SELECT event.at, event.event, event.state, event.detail
FROM event JOIN job ON job.seq = event.job_seq
WHERE job.id = :id ORDER BY event.seq LIMIT :limit

-- name: delete_job
DELETE FROM job WHERE id = :id AND state IN (SELECT value FROM json_each(:states))
RETURNING seq
