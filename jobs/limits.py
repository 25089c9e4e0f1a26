"""How many processes and how much memory a job may have: what is meant, and what is enforced."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Enforcer = Literal["cgroup", "rlimit"]
LimitName = Literal["processes", "memory_mb"]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(Model):
    """What the system is to hold a job to, where it can; 0: nothing."""

    processes: int = Field(0, ge=0)  #: threads are counted, as the kernel does
    memory_mb: int = Field(0, ge=0)
    process_memory_mb: int = Field(0, ge=0)  #: of each process, where a whole job cannot be held


class Limits(Model):
    """What a job is really held to: as a whole by a cgroup, or by an rlimit."""

    processes: int | None = None
    processes_by: Enforcer | None = None
    memory_mb: int | None = None
    memory_mb_by: Enforcer | None = None

    def __str__(self) -> str:
        """`4096 processes (cgroup), 900 MB memory (cgroup)`"""
        words = []
        if self.processes is not None:
            of = " more of the user" if self.processes_by == "rlimit" else ""
            words.append(f"{self.processes} processes{of} ({self.processes_by})")
        if self.memory_mb is not None:
            each = " per process" if self.memory_mb_by == "rlimit" else ""
            words.append(f"{self.memory_mb} MB memory{each} ({self.memory_mb_by})")
        return ", ".join(words) or "none"
