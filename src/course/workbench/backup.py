"""`course backup` and `course restore`: everything a workbench holds in one gzipped tar, whose checksum reveals damage.

It has DATABASE.sql for each database, artifacts/…, manifest.json, and accounts.json of a workbench without Docker. The
databases come first, as snapshots, so that every artifact they name is in the file; accounts come before runs, so that
every experiment that a permission names is in it, too.
"""

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course import store
from course.errors import CourseError
from course.paths import kept_name, root
from course.workbench import local as workbench
from course.workbench import postgres

DATABASES = postgres.DATABASES[::-1]  # accounts first
EMPTY = b"SET lock_timeout = '30s'; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;\n"
TABLE = "SELECT to_regclass('runs')"  # exists once MLflow has started
HOLDS = "SELECT (SELECT count(*) FROM runs) || ' runs, ' || (SELECT count(*) FROM model_versions) || ' model versions'"
HASH = 'import os, werkzeug.security as w; print(w.generate_password_hash(os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]))'


class Process:
    """The workbench that `course workbench` starts."""

    kind = "process"

    def __init__(self) -> None:
        self.folder, self.socket = workbench.folder(), Path()

    @contextmanager
    def databases(self) -> Iterator[None]:
        """Use the running PostgreSQL, or start it temporarily."""
        if not (data := self.folder / "postgres").exists():
            raise CourseError(f"There is no workbench in {self.folder} to back up: create one with `course workbench`.")
        pidfile = data / "postmaster.pid"  # PostgreSQL's own: line 2 is its data, line 5 the folder of its socket
        lines = pidfile.read_text().splitlines() if pidfile.exists() else []
        runs = len(lines) > 4 and lines[1] == str(data) and postgres.is_ready(Path(lines[4]))
        with nullcontext() if runs else workbench.start(self.folder, mlflow=False) as bench:
            self.socket = bench.socket if bench else Path(lines[4])
            yield

    def run(self, program: str, *arguments: str, database: str, **how: Any) -> bytes:
        """Run one of PostgreSQL's programs on that database; return what it printed."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env |= {"PGHOST": str(self.socket), "PGUSER": postgres.ROLE, "PGDATABASE": database}
        return postgres.run([postgres.program(program), *arguments], env=env, **how)

    def add_files(self, tar: tarfile.TarFile) -> None:
        """Add the artifacts, and the accounts if there are any."""
        artifacts = self.folder / "artifacts"
        for path in [artifacts, *sorted(artifacts.rglob("*")), self.folder / "accounts.json"]:
            with suppress(FileNotFoundError):  # deleted meanwhile
                tar.add(path, path.relative_to(self.folder), recursive=False)

    def restore(self, file: Path, new: Path, force: bool) -> None:
        """Complete the unpacked folder, then let it replace the workbench."""
        if (self.folder / "postgres").exists() and not force:
            fix = f"to replace it with the one in {file}, add --force. Yours is kept next to it"
            raise CourseError(f"{self.folder} already holds a workbench: {fix}.")
        exists = self.folder.exists()
        with ExitStack() as stack:
            if exists:
                stack.callback(workbench.lock(self.folder).release)  # fails if it is running
            with workbench.start(new, mlflow=False) as bench:
                self.socket = bench.socket
                _load(self, new)
            for name in ("manifest.json", *(f"{database}.sql" for database in DATABASES)):
                (new / name).unlink()
            os.sync()
            if exists:
                print(f"The previous workbench is kept as {self.folder.rename(kept_name(self.folder))}.")
            new.rename(self.folder)


class Containers:
    """The workbench of workbench/compose.yaml."""

    kind = "docker"

    def _compose(self, *words: str, **how: Any) -> bytes:
        return postgres.run(["docker", "compose", "-f", str(root() / "workbench" / "compose.yaml"), *words], **how)

    def _mlflow(self, *command: str, **how: Any) -> bytes:
        """Run a command in a new container with the artifacts and the settings of MLflow's."""
        return self._compose("run", "--rm", "--no-deps", "-T", "mlflow", *command, **how)

    def databases(self) -> AbstractContextManager[None]:
        """Start PostgreSQL if it does not run."""
        self._compose("up", "--detach", "--wait", "--no-recreate", "postgres")
        return nullcontext()

    def run(self, program: str, *arguments: str, database: str, **how: Any) -> bytes:
        """Run one of PostgreSQL's programs on that database; return what it printed."""
        env = ["--env", f"PGUSER={postgres.ROLE}", "--env", f"PGDATABASE={database}"]
        return self._compose("exec", "-T", *env, "postgres", program, *arguments, **how)

    def add_files(self, tar: tarfile.TarFile) -> None:
        """Add the artifacts."""
        with tempfile.TemporaryFile(dir=Path(str(tar.name)).parent) as copy:
            script = "tar -c -C / --ignore-failed-read artifacts || [ $? = 1 ]"  # 1: a file changed meanwhile
            self._mlflow("sh", "-c", script, stdout=copy)
            copy.seek(0)
            with tarfile.open(fileobj=copy) as files:
                for entry in files:
                    tar.addfile(entry, files.extractfile(entry) if entry.isfile() else None)

    def restore(self, file: Path, unpacked: Path, force: bool) -> None:
        """Stop MLflow, back up what exists, replace the rows and then the files."""
        with self.databases():
            runs = b"mlflow" in self._compose("ps", "--services", "--status", "running").split()
            exists = self.run("psql", "-Atc", TABLE, database="mlflow").strip()
            if exists and not force:
                fix = f"to replace it with the data in {file}, add --force"
                yours = "Yours is kept as another backup next to that file."
                raise CourseError(f"The workbench in containers already holds data: {fix}. {yours}")
            self._compose("stop", "mlflow")
            try:
                if exists:
                    backup(kept := kept_name(file), docker=True)
                    print(f"The previous data is kept as {kept}: `course restore --docker` restores it.", flush=True)
                _load(self, unpacked, self._mlflow("python", "-c", HASH).decode().strip())  # of the password in .env
                with file.open("rb") as whole:
                    script = "find /artifacts -mindepth 1 -delete; tar -xz --no-overwrite-dir -C / artifacts"
                    self._mlflow("sh", "-ec", script, stdin=whole)
            finally:
                if runs:
                    self._compose("up", "--detach", "--wait", "--no-recreate", "mlflow")


def backup(file: Path, *, docker: bool = False) -> str:
    """Write everything that the workbench holds to a new file, atomically; return a summary of it."""
    if file.exists():
        raise CourseError(f"{file} already exists, and a backup never overwrites: choose another name, or move it.")
    bench, part = Containers() if docker else Process(), file.with_name(file.name + ".part")
    with bench.databases():
        try:
            part.unlink(missing_ok=True)
            part.touch(mode=0o600)  # it holds accounts
            with tarfile.open(part, "w:gz", compresslevel=1) as tar:
                holds = _write(bench, tar)
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
    return holds


def _write(bench: Process | Containers, tar: tarfile.TarFile) -> str:
    if not bench.run("psql", "-Atc", TABLE, database="mlflow").strip():
        raise CourseError("There is nothing to back up, because MLflow never ran on this workbench: start it first.")
    for database in DATABASES:
        _add(tar, f"{database}.sql", bench.run("pg_dump", "--no-owner", "--no-privileges", database=database))
    bench.add_files(tar)
    files = sum(entry.isfile() and entry.name.startswith("artifacts/") for entry in tar.getmembers())
    holds = f"{bench.run('psql', '-Atc', HOLDS, database='mlflow').decode().strip()} and {files} artifact files"
    _add(tar, "manifest.json", json.dumps({"kind": bench.kind, "mlflow": version("mlflow"), "holds": holds}).encode())
    return holds


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    tar.addfile(entry, io.BytesIO(content))


def restore(file: Path, *, docker: bool = False, force: bool = False) -> str:
    """Replace the workbench with the one in the file; return a summary of it. Examine the whole file first."""
    bench, unpacked = Containers() if docker else Process(), store.scratch(workbench.folder())
    try:
        manifest = _unpack(file, unpacked, bench.kind)
        bench.restore(file, unpacked, force)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return manifest["holds"]


def _unpack(file: Path, folder: Path, kind: str) -> dict[str, str]:
    """Unpack a backup, and return its manifest. Raises CourseError if it is damaged or does not fit here."""
    try:
        with gzip.open(file) as whole:  # to its end, where the checksum is
            while whole.read(1 << 20):
                pass
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on
        shutil.unpack_archive(file, folder, "gztar", **options)
        manifest: dict[str, str] = json.loads((folder / "manifest.json").read_text())
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        fix = "copy it again from the original, or use another backup"
        raise CourseError(f"{file} is not a backup of a workbench, or is damaged ({error}): {fix}.") from None
    if manifest["kind"] != kind:
        how = "without" if kind == "docker" else "with"
        raise CourseError(f"{file} comes from a workbench {how} containers: restore it {how} --docker.")
    if manifest["mlflow"] != version("mlflow"):
        problem = f"MLflow {version('mlflow')} may be unable to read its tables"
        fix = "restore it with the version of the course that made it"
        raise CourseError(f"{file} comes from MLflow {manifest['mlflow']}, and {problem}: {fix}.")
    return manifest


def _load(bench: Process | Containers, folder: Path, admin: str = "") -> None:
    """Load each database in one transaction. `admin` is the hash of the administrator's password."""
    for database in DATABASES:
        sql = EMPTY + (folder / f"{database}.sql").read_bytes()
        if admin and b"COPY public.users " in sql:
            sql += f"UPDATE public.users SET password_hash = '{admin}' WHERE username = 'admin';\n".encode()
        bench.run("psql", "-X1qv", "ON_ERROR_STOP=1", database=database, input=sql)
