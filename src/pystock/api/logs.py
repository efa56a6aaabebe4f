"""The log of the inference API: JSON lines on stdout."""

import logging
from typing import Any

from pydantic_core import to_json


def _as_json(record: dict[str, Any], **_: Any) -> str:
    return to_json(record, fallback=str).decode()


def log_config(level: str) -> dict[str, Any]:
    """Return a `logging.config` dictionary that writes every record as one line of JSON."""
    formatter = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": ["levelname", "message"],
        "rename_fields": {"levelname": "level"},
        "timestamp": "time",
        "json_serializer": _as_json,
        "reserved_attrs": [*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"],
    }
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}
    quiet = {name: {"level": "WARNING"} for name in ("mlflow", "uvicorn", "alembic", "asyncio", "filelock")}
    quiet["urllib3"] = {"level": "ERROR"}  # the watcher logs once that the server is gone; urllib3 would at each retry
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stdout": handler},
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": quiet,
    }
