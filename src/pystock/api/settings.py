"""The settings of the inference API: environment variables, read once at the start."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pystock.api.keys import KeysError, read_keys

PREFIX = "PYSTOCK_API_"
_MODEL = "models:/[^/@]+(@[^/@]+|/[0-9]+)"


def cache_folder() -> Path:
    """Where programs of this user keep what they can fetch again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "pystock-api"


class Settings(BaseSettings):
    """Each field is the variable PYSTOCK_API_<ITS NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    model: str = Field("models:/pystock-big-move@champion", pattern=f"^{_MODEL}$")
    mirror: str = Field("", pattern=f"^({_MODEL})?$")
    mirror_share: float = Field(0.1, ge=0, le=1)
    keys_file: Annotated[str, Field(min_length=1)] | None = None
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=1, le=65535)
    workers: int = Field(1, ge=1, le=64)
    poll_seconds: float = Field(10, ge=0.1, le=86400)
    cache: Path = Field(default_factory=cache_folder)
    max_body_bytes: int = Field(2_000_000, ge=1000)
    max_rows: int = Field(10_000, ge=67)
    timeout_seconds: float = Field(10, gt=0, le=3600)
    max_concurrent: int = Field(64, ge=1)
    shutdown_seconds: int = Field(10, ge=1, le=3600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class SettingsError(ValueError):
    """What is wrong with the settings, one sentence a line."""


def read_settings() -> Settings:
    """The settings of this process; SettingsError with a sentence for each that is wrong."""
    wrong, found = [], None
    try:
        found = Settings()
    except ValidationError as error:
        for each in error.errors():
            given = str(each["input"])[:60]
            rule = each["msg"].replace("Input should", "it should").replace("String should", "it should")
            if each["loc"] in (("model",), ("mirror",)):
                rule = "write models:/NAME@ALIAS or models:/NAME/VERSION"
            wrong.append(f"{PREFIX}{str(each['loc'][0]).upper()} is {given!r}: {rule}.")
    if found and found.keys_file:
        try:
            read_keys(Path(found.keys_file))
        except KeysError as error:
            wrong.append(f"{PREFIX}KEYS_FILE is {found.keys_file!r}: {error}.")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        wrong.append("MLFLOW_TRACKING_URI is not set: name the store or the server that knows the model.")
    if wrong:
        raise SettingsError("\n".join(wrong))
    return found
