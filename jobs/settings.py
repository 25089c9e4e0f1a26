"""Settings: environment over `config.toml` over defaults; the one place that reads them."""

from __future__ import annotations

import os
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import platformdirs
import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from jobs.errors import SettingsError, nearest
from jobs.paths import Home

#: Set for jobs, or read before the settings are; not settings themselves.
_NOT_SETTINGS = {"OUTLAST_CONFIG", "OUTLAST_FAILPOINTS", "OUTLAST_JOB_ID", "OUTLAST_JOB_DIR"}


def config_path() -> Path:
    """`OUTLAST_CONFIG`, else `config.toml` in the user's configuration folder."""
    named = os.environ.get("OUTLAST_CONFIG")
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_config_path("outlast") / "config.toml"


class NamedEnvironment(BaseModel):
    """`[environments.NAME]`: where scientific programs live that a chat client's PATH lacks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    activate: str | None = None  #: shell text, run by bash before the command
    env: dict[str, str] = {}
    path: list[str] = []  #: folders put before the PATH
    python: str | None = None  #: what {python} means in a manifest
    manifests: list[str] = []  #: kinds of job that use this environment by default


class SlurmProfile(BaseModel):
    """`[engines.slurm.profiles.NAME]`: what a launch picks by name, and cannot say by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    modules: list[str] = []  #: loaded before the command
    options: list[str] = []  #: of sbatch, as in ["--exclusive"]
    nodes: int = Field(1, ge=1)
    tasks: int = Field(1, ge=1)
    time_limit_s: float | None = Field(None, gt=0)  #: of jobs that ask for none
    description: str = ""


class SlurmSettings(BaseModel):
    """`[engines.slurm]`"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profiles: dict[str, SlurmProfile] = {}
    default_profile: str | None = None
    allow_options: bool = False  #: whether a launch may pass options of sbatch
    poll_s: float = Field(10.0, ge=10.0, le=600.0)  #: between looks, of up to two calls each


class Engines(BaseModel):
    """`[engines]`"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Literal["local", "slurm"] = "local"
    slurm: SlurmSettings = SlurmSettings()


class Settings(BaseSettings):
    """Every setting, its default and its unit."""

    model_config = SettingsConfigDict(env_prefix="OUTLAST_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: platformdirs.user_state_path("outlast"))
    cores: int = Field(default_factory=lambda: _usable_cores(), ge=1)
    memory_mb: int = Field(default_factory=lambda: _usable_memory_mb(), ge=1)
    gpus: int = Field(default_factory=lambda: _count_gpus(), ge=0)
    path: list[str] = []  #: folders put before the PATH of every job
    pass_env: list[str] = []  #: further variables that jobs get from the server's environment
    environments: dict[str, NamedEnvironment] = {}
    engines: Engines = Engines()
    manifest_dirs: list[Path] = []  #: folders with manifests of your own
    max_processes: int = Field(4096, ge=0, le=1 << 22)  #: and threads, of one job; 0: no limit
    grace_s: float = Field(10, ge=0, le=3600)  #: between the request to end a job and the kill
    keeper_idle_s: float = Field(30, ge=0)  #: the keeper leaves when it has had no work so long
    copy_limit_mb: int = Field(1024, ge=0)  #: inputs of one launch that are copied
    hash_limit_mb: int = Field(1024, ge=0)  #: files of a job that are hashed at its end, in all
    log_limit_mb: int = Field(1024, ge=0)  #: space of stdout, and of stderr; 0: no limit
    log_limit_action: Literal["trim", "end"] = "trim"  #: keep head and tail, or end the job
    disk_warn_mb: int = Field(2000, ge=0)  #: less free space than that is told
    disk_refuse_mb: int = Field(200, ge=0)  #: with less than that no job is launched
    prune_after_days: float = Field(90, ge=0)  #: what `outlast prune` proposes
    prune_over_gb: float | None = Field(None, ge=0)  #: and the size to which it prunes

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, toml_file=config_path())
        return init_settings, env_settings, file

    @cached_property
    def state(self) -> Home:
        return Home(self.home.expanduser().absolute())

    @property
    def all_manifest_dirs(self) -> list[Path]:
        """Where kinds of job are looked for; an earlier folder hides the same name in a later."""
        own = config_path().parent / "manifests"
        bundled = Path(__file__).resolve().parent.parent / "manifests"
        return [*(path.expanduser() for path in self.manifest_dirs), own, bundled]


def load_settings(**overrides: Any) -> Settings:
    """The settings in force. Raises SettingsError with the first fault and where it stands."""
    _check_names()
    if os.environ.get("OUTLAST_CONFIG"):
        # Absolute for our children too: the keeper starts in another directory than we did.
        os.environ["OUTLAST_CONFIG"] = str(config_path())
        if not config_path().is_file():
            raise SettingsError(f"OUTLAST_CONFIG names {config_path()}, which is no file.")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            hint = _nearest_setting(tuple(str(part) for part in fault["loc"]))
            cause = f"{config_path()} has the unknown key {where!r}.{hint}"
        else:
            cause = f"The setting {where!r} is not usable: {fault['msg']}."
        raise SettingsError(cause) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config_path()} is not valid TOML: {error}.") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"The configuration cannot be read: {error}.") from None


def _check_names() -> None:
    known = {f"OUTLAST_{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    for name in os.environ:
        if name.startswith("OUTLAST_") and name not in known:
            raise SettingsError(f"{name} is not a setting.{nearest(name, known)}")


def _nearest_setting(where: tuple[str, ...]) -> str:
    fields = Settings.model_fields
    if len(where) > 1 and where[0] == "environments":
        fields = NamedEnvironment.model_fields
    elif len(where) > 1 and where[0] == "engines":
        inner = {2: Engines.model_fields, 3: SlurmSettings.model_fields}
        fields = inner.get(len(where), SlurmProfile.model_fields)
    return nearest(where[-1], fields)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _usable_memory_mb() -> int:
    """Nine tenths: a job that takes all it may shall end before the machine suffers."""
    return max(1, int(psutil.virtual_memory().total >> 20) * 9 // 10)


def _count_gpus() -> int:
    """NVIDIA devices by the driver's own listing: asking nvidia-smi takes a second or more."""
    try:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return 0
