"""Start the inference API and serve until SIGTERM or SIGINT. The settings are environment variables: see README.md.

Exit code: 0 stopped on request, 2 a setting is wrong, any other: it could not start, and the log says why.
"""

import os
import signal
import sys
import tempfile

# Give up a tracking server that is gone after one short retry, and not after four silent minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # MLflow's records become JSON lines, like ours
# A request is one core's work: more workers use more cores, and XGBoost's threads would compete with them
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import uvicorn

from pystock.api.logs import log_config
from pystock.api.settings import Settings, SettingsError, read_settings


def serve(settings: Settings) -> None:
    uvicorn.run(
        "pystock.api:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=log_config(settings.log_level),
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,  # seconds: longer than a proxy in front keeps an idle connection, which is mostly 60
        timeout_worker_healthcheck=60,  # seconds: a worker that imports is silent, and would be killed after 5
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


def main() -> None:
    try:
        settings = read_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after its shutdown
        signal.signal(number, lambda *_: sys.exit(0))
    if settings.workers == 1:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        serve(settings)
        return
    with tempfile.TemporaryDirectory(prefix="pystock-api-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before prometheus_client is imported, in the workers
        serve(settings)


if __name__ == "__main__":
    main()
