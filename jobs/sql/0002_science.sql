-- What became of a job beyond its exit code, what it goes on from, and the sweep that it is one of.
ALTER TABLE job ADD COLUMN outcome TEXT;
ALTER TABLE job ADD COLUMN parent TEXT;
ALTER TABLE job ADD COLUMN sweep TEXT;
ALTER TABLE job ADD COLUMN sweep_index INTEGER;
ALTER TABLE job ADD COLUMN sweep_values TEXT;

CREATE INDEX job_by_sweep ON job (sweep, seq) WHERE sweep IS NOT NULL;

CREATE INDEX job_elsewhere ON job (seq) WHERE state = 'queued' AND engine <> 'local';

-- Only of jobs that have ended: one page less to write for each launch.
DROP INDEX job_by_end;
CREATE INDEX job_by_end ON job (ended_at) WHERE ended_at IS NOT NULL;
