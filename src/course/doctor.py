"""`course doctor`: find what stops notebooks from running on this machine, and say how to fix it."""

import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from course.errors import CourseError
from course.paths import left_out, root, state
from course.workbench import postgres

ROOM = 1.0  # GB that the store and the executed copies of the whole course need at most


def packages() -> str | None:
    """Compare the installed packages with the lock."""
    wrong, omitted = [], {name for names in left_out().values() for name in names}
    for line in (root() / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line[:1].isalnum():  # a hash, a comment
            continue
        requirement = Requirement(line.rstrip(" \\"))
        if requirement.name in omitted or requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            if (installed := metadata.version(requirement.name)) not in requirement.specifier:
                wrong.append(f"{requirement.name} is {installed}, the lock requires {requirement.specifier}")
        except metadata.PackageNotFoundError:
            if not os.environ.get("COURSE_SUBSET"):  # set in an image that leaves out what tests and builds the course
                wrong.append(f"{requirement.name} is missing")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return f"{'; '.join(wrong[:3])}{more}: run `python install.py` in the course folder"
    return None


def kernel() -> str | None:
    """Find out which Python the kernel starts."""
    from jupyter_client.kernelspec import NoSuchKernel
    from jupyter_client.manager import KernelManager

    try:
        manager = KernelManager(kernel_name="python3")
        program, spec = manager.format_kernel_cmd()[0], manager.kernel_spec
    except NoSuchKernel:
        return f"Jupyter cannot find a kernel named python3: run `{sys.executable} -m ipykernel install --sys-prefix`"
    assert spec is not None  # else NoSuchKernel was raised
    # compare folders: .venv/bin/python and /usr/bin/python3 may be the same file, but are two environments
    if Path(shutil.which(program) or program).parent.resolve() != Path(sys.executable).parent.resolve():
        return f"the kernel python3 that Jupyter finds starts another Python, {program}: remove {spec.resource_dir}"
    return None


def tracking_uri() -> str | None:
    """Find an address or a path that MLflow would misread, and a tracking URI that the chapters would ignore."""
    from course import session, store

    if stray := session.stray_uri(store.in_use()):
        return (
            f"MLFLOW_TRACKING_URI is set to {stray}, which the chapters ignore and plain `mlflow` uses: "
            "unset it, or set COURSE_TRACKING_URI to the same address if you want that server"
        )
    return None


def old_mlruns() -> str | None:
    """Find a file store of an older MLflow."""
    for place in dict.fromkeys([Path.cwd(), root(), root() / "notebooks", root() / "work"]):
        if (place / "mlruns").exists():
            return (
                f"{place / 'mlruns'} is an old file store, which MLflow 3 rejects: move it away, or convert it with "
                "`mlflow migrate-filestore --source ./mlruns --target sqlite:///mlflow.db`"
            )
    return None


def disk_space() -> str | None:
    """Measure the free space on the disk of the state folder."""
    place = state()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if free < ROOM:
        return f"{place} has {free:.1f} GB of free space, but the course's runs need {ROOM:.0f} GB: free some space"
    return None


def writable() -> str | None:
    """Try to write a file in the state folder."""
    try:
        state().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=state()).close()
    except OSError as error:
        return f"{state()} is not writable ({error.strerror}): change its owner or its permissions"
    return None


def postgresql() -> str | None:
    """Find out whether chapter 05 can start PostgreSQL. On Windows it never can, and runs in containers."""
    return None if os.name == "nt" else postgres.why_not()


CHECKS = {
    "packages agree with requirements.lock": packages,
    "Jupyter starts this environment's kernel": kernel,
    "the store and its address": tracking_uri,
    "old ./mlruns folders": old_mlruns,
    "disk space": disk_space,
    "the folder for runs and artifacts is writable": writable,
    "PostgreSQL can run": postgresql,
}


def examine() -> bool:
    """Print a line for each check; return whether all passed."""
    healthy = True
    for name, look in CHECKS.items():
        try:
            failure = look()
        except CourseError as error:
            failure = str(error)
        except Exception as error:
            failure = f"the check itself failed ({type(error).__name__}: {error}): run `python install.py` again"
        healthy = healthy and failure is None
        print(f"[ ok ] {name}" if failure is None else f"[fail] {name}: {failure}")
    for extra in left_out():
        print(f"[ ok ] without {extra}, as you chose: to add it, run `python install.py --with {extra}`")
    return healthy
