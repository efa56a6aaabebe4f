"""The settings of the inference API: environment variables, read once at the start."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pystock.errors import PystockError
from pystock.model_uri import VERSION_PATTERN

PREFIX = "PYSTOCK_API_"


def cache_folder() -> Path:
    """Return the default of `cache`, in this user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "pystock-api"


class Settings(BaseSettings):
    """The settings; each field is the variable PYSTOCK_API_<ITS NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    model: str = Field(default="models:/pystock-big-move@champion", pattern=f"^{VERSION_PATTERN}$")
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=1, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    poll_seconds: float = Field(default=10, ge=0.1, le=86400)
    cache: Path = Field(default_factory=cache_folder)
    max_body_bytes: int = Field(default=2_000_000, ge=1000)
    max_rows: int = Field(default=10_000, ge=67)
    timeout_seconds: float = Field(default=10, gt=0, le=3600)
    max_concurrent: int = Field(default=64, ge=1)
    shutdown_seconds: int = Field(default=10, ge=1, le=3600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class SettingsError(PystockError, ValueError):
    """Raised for wrong settings, with one sentence about each, a line each."""


def read_settings() -> Settings:
    """Return the settings of this process; SettingsError if one of them is wrong."""
    settings, wrong = None, []
    try:
        settings = Settings()
    except ValidationError as error:
        for each in error.errors():
            field, value = str(each["loc"][0]), str(each["input"])[:60]
            rule = each["msg"].replace("Input should", "it should").replace("String should", "it should")
            if field == "model":
                rule = "write models:/NAME@ALIAS or models:/NAME/VERSION"
            wrong.append(f"{PREFIX}{field.upper()} is {value!r}: {rule}.")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        wrong.append("MLFLOW_TRACKING_URI is not set: name the tracking server or store that has the model.")
    if settings is None or wrong:
        raise SettingsError("\n".join(wrong))
    return settings
