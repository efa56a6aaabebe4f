"""The environment of the course's processes: what people export for their other work must not change a chapter.

The command `course`, the executor and `course.begin` call `settle` before they start anything.
"""

import contextlib
import getpass
import os
import re
import sys
from pathlib import Path
from urllib.request import getproxies_environment

from course.paths import state

QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # the course needs no network
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's address after each run: different every time
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # widgets break in headless runs
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 by default: four silent minutes where a server is gone
}

# For the chapters that import TensorFlow, before they do; the others never load it.
QUIET_TENSORFLOW = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.devnull,  # no keras.json, which could set another precision
    # oneDNN picks an order of summation for the machine's instructions, so that last digits differ, and announces it
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "1",  # drops informational lines (which instructions the machine has), not warnings
}

SETTINGS = {
    **QUIET_MLFLOW,
    **QUIET_TENSORFLOW,
    "MATPLOTLIBRC": os.devnull,  # no figure size or style of the user's own
    "PYTHONSTARTUP": "",  # IPython would run it; VS Code sets it in every terminal
    "PYTHONDONTWRITEBYTECODE": "1",  # MLflow removes __pycache__ from a model that it logs, and rarely leaves one
}

# For JupyterLab and each kernel.
JUPYTER = {
    "JUPYTER_PATH": "",  # its kernels would come before this environment's
    "JUPYTER_PREFER_ENV_PATH": "1",  # a kernel `python3` in the home folder would be taken otherwise
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel start warns about frozen modules
}

# Variables that redirect what is logged, or change what Python and its packages do. The exceptions of MLflow: what a
# connection to a server needs, and what workbench/compose.yaml reads. The exceptions of Python change no result.
IGNORED = re.compile(
    r"_?MLFLOW_(?!TRACKING_(?!DIR)|WORKSPACE$|HTTP_|ALLOW_HTTP_|S3_|GCS_|BOTO_|KERBEROS_|ENV_ROOT$"
    r"|(ENABLE_(PROXY_)?)?MULTIPART_|ARTIFACT_UPLOAD_|DOWNLOAD_|PORT$|SECRET_KEY$|(ADMIN|DB|LEARNER)_PASSWORD$)"
    r"|PYTHON(?!UNBUFFERED|DONTWRITEBYTECODE|PYCACHEPREFIX|HASHSEED|FAULTHANDLER|NOUSERSITE|UTF8|IOENCODING)[A-Z]+$"
    r"|MPLBACKEND$"
)
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel sets, unless another backend is set


def settle() -> str | None:
    """Set what the course needs in this process and those it starts. Return a sentence if it ignores something."""
    names = [name for name, value in sorted(os.environ.items()) if IGNORED.match(name) and value != INLINE]
    ignored = [name for name in names if os.environ.pop(name) and name not in SETTINGS]
    if "MPLBACKEND" in ignored and "ipykernel" in sys.modules:
        os.environ["MPLBACKEND"] = INLINE
    os.environ.update(SETTINGS)
    _use_python_of_this_course()
    _reach_this_machine_without_proxy()
    _name_the_user()
    if ignored:
        return f"The course ignores what would change its chapters: {', '.join(ignored)}."
    return None


def _use_python_of_this_course() -> None:
    """Put this environment's `mlflow` and `python` first on PATH: MLflow projects and servers start by name."""
    folder = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "").split(os.pathsep)
    if path[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *path])


def _reach_this_machine_without_proxy() -> None:
    """Except 127.0.0.1 from the user's proxies: the course's servers are there."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if getproxies_environment() and given.strip() != "*":
        hosts = [host for host in given.split(",") if host] + ["127.0.0.1", "localhost", "::1"]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(hosts))


def _name_the_user() -> None:
    """Give a user id without an account, as containers have them, a name for MLflow and a home for Jupyter."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["LOGNAME"] = os.environ["USER"] = str(os.getuid())
    if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111  (a Path raises where there is no home)
        with contextlib.suppress(OSError):  # `course doctor` has a check for a state folder that cannot be written
            (state() / "home").mkdir(parents=True, exist_ok=True)
            os.environ["HOME"] = str(state() / "home")
