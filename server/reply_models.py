"""The shapes of replies: what structured content holds, and so the tools' output schemas."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class JobReply(BaseModel):
    job_id: str
    state: str
    name: str
    project: str
    outcome: dict[str, Any] | None = None  #: what is known of jobs.model.Outcome
    progress: dict[str, Any] | None = None  #: as jobs.model.Progress
    elapsed_s: float | None = None
    job_dir: str | None = None
    poll_after_s: float | None = None
    wait_reason: str | None = None
    warning: str | None = None
    counts: dict[str, Any] | None = None  #: of a sweep: its jobs by state


class SweepReply(BaseModel):
    sweep_id: str
    name: str
    jobs: int
    counts: dict[str, Any]
    fraction: float
    columns: list[str]
    rows: list[list[str]]


class StatusReply(BaseModel):
    """One job, a sweep, or a list."""

    job_id: str | None = None
    state: str | None = None
    name: str | None = None
    project: str | None = None
    outcome: dict[str, Any] | None = None  #: what is known of jobs.model.Outcome
    progress: dict[str, Any] | None = None  #: as jobs.model.Progress
    elapsed_s: float | None = None
    job_dir: str | None = None
    poll_after_s: float | None = None
    wait_reason: str | None = None
    warning: str | None = None
    counts: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    placement: str | None = None  #: where a scheduler has put it
    parent: str | None = None
    artifacts: list[str] | None = None
    sweep: SweepReply | None = None
    jobs: list[dict[str, Any]] | None = None
    next_cursor: str | None = None


class TailReply(BaseModel):
    job_id: str
    state: str
    stream: str
    text: str
    size: int
    next_cursor: str | None = None
    notes: list[str] = []
    untrusted: bool = True


class FileReply(BaseModel):
    path: str
    size: int
    kind: str
    modified_at: str
    sha256: str | None = None


class ExpectedReply(BaseModel):
    path: str
    required: bool
    present: bool


class ArtifactsReply(BaseModel):
    job_id: str
    state: str
    artifacts: list[FileReply]
    expected: list[ExpectedReply] = []
    total: int
    total_size: int
    truncated: bool = False
    next_cursor: str | None = None


class ContentReply(BaseModel):
    job_id: str
    path: str
    kind: str
    size: int
    text: str | None = None
    next_offset: int | None = None
    summary: str | None = None
    untrusted: bool = True


class ManifestsReply(BaseModel):
    manifests: list[dict[str, Any]] = Field(default_factory=list)
    engines: dict[str, str] | None = None  #: what each is, by the name that a launch gives
    environments: list[str] | None = None
