"""Start the inference API and serve until SIGTERM or SIGINT. The settings are environment variables: README.md.

Exit code: 0 ended when asked, 1 it cannot start, 2 a setting is wrong.
"""

import os
import signal
import sys
import tempfile

# A tracking server that is gone costs a look at it, and not four silent minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its lines come as JSON, like ours
# One request is one core's work: more workers use more cores, and XGBoost's threads would take turns with them
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import uvicorn

from pystock.api.server import EachItsOwn, PatientProtocol, PatientServer, Supervisor, bound, log_config
from pystock.api.settings import Settings, SettingsError, read_settings


def serve(settings: Settings) -> None:
    config = uvicorn.Config(
        "pystock.api:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=PatientProtocol,
        log_config=log_config(settings.log_level),
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,  # seconds; a proxy in front has to close an idle connection first, and mostly does at 60
        timeout_worker_healthcheck=60,  # seconds; a worker is silent while it imports, and would be killed after 5
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    try:
        listening = bound(settings.host, settings.port)
    except OSError as error:
        sys.exit(f"pystock-inference-api: {settings.host}:{settings.port} cannot be listened on ({error.strerror}).")
    if settings.workers == 1:
        return PatientServer(config).run(sockets=[listening])
    if sys.platform == "linux":
        listening.close()
        listening = EachItsOwn(settings.host, settings.port)
    Supervisor(config, sockets=[listening]).run()


def main() -> None:
    try:
        settings = read_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for sign in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
        signal.signal(sign, lambda *_: sys.exit(0))
    if settings.workers == 1:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        return serve(settings)
    with tempfile.TemporaryDirectory(prefix="pystock-api-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        serve(settings)


if __name__ == "__main__":
    main()
