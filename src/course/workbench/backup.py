"""`course backup` and `course restore`: all that a workbench holds in one file, databases and artifacts together.

The file is a tar: DATABASE.dump for each database, artifacts/…, accounts.json where there is one, manifest.json last;
behind the tar stands the checksum of every byte before it. The databases come first, each as of one moment, so that
every artifact they name is there to follow; and accounts before runs, so that no permission names a later experiment.
"""

import hashlib
import io
import json
import mmap
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path

from course import store
from course.errors import CourseError
from course.paths import kept_name, root
from course.workbench import local as workbench
from course.workbench import postgres

MARK = "course backup, format 1"
SEAL = b"\nsha256 "
AGAIN = "copy it again from where it was made, or take another backup"
EMPTY = "SET lock_timeout = '30s'; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;\n"
HASH = 'import os, werkzeug.security as w; print(w.generate_password_hash(os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]))'


class OnThisMachine:
    """The workbench that `course workbench` starts."""

    kind = "process"

    def __init__(self):
        self.folder = workbench.folder()

    @contextmanager
    def opened(self):
        """While its databases answer: the running ones, else they are started for this time."""
        if not (self.folder / "postgres").exists():
            raise CourseError(f"There is no workbench in {self.folder} to back up: `course workbench` makes one.")
        pidfile = self.folder / "postgres" / "postmaster.pid"  # PostgreSQL's own: its fifth line is the socket's folder
        lines = pidfile.read_text().splitlines() if pidfile.exists() else []
        if len(lines) > 4 and postgres.is_ready(Path(lines[4])):
            self.socket = lines[4]
            yield
            return
        with workbench.start(self.folder, mlflow=False) as bench:
            self.socket = bench._socket
            yield

    def run(self, program: str, *arguments: str, database: str, **how) -> bytes:
        """Run one of PostgreSQL's programs on that database; returns what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        where = {"PGHOST": str(self.socket), "PGUSER": postgres.ROLE, "PGDATABASE": database}
        return _run([postgres.program(program), *arguments], env=kept | where, **how)

    def add_files(self, tar: tarfile.TarFile) -> int:
        paths = [path for path in sorted((self.folder / "artifacts").rglob("*")) if path.is_file()]
        for path in [*paths, self.folder / "accounts.json"]:
            with suppress(FileNotFoundError), open(path, "rb") as file:  # one that is deleted meanwhile
                _add(tar, path.relative_to(self.folder).as_posix(), file, os.fstat(file.fileno()).st_size)
        return len(paths)

    def restore(self, file: Path, tar: tarfile.TarFile, manifest: dict, force: bool) -> None:
        """Make the workbench in a folder beside, and let it take its place at the end."""
        if (self.folder / "postgres").exists() and not force:
            raise CourseError(
                f"{self.folder} holds a workbench already: `course restore --force` puts that of {file} in its place, "
                "and keeps yours beside it."
            )
        new, kept = store.scratch(self.folder), kept_name(self.folder)
        there = self.folder.exists()
        with workbench._lock(self.folder) if there else nullcontext():  # refuses one that runs
            try:
                with workbench.start(new, mlflow=False) as bench:
                    self.socket = bench._socket
                    _load(self, tar, manifest["rows"])
                files = [one for one in tar if one.isfile() and one.name.startswith(("artifacts/", "accounts.json"))]
                safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
                tar.extractall(new, [one for one in files if ".." not in one.name.split("/")], **safely)
                os.sync()  # before the old one goes aside
                if there:
                    self.folder.rename(kept)
                    print(f"The workbench that was there is kept as {kept}.")
                new.rename(self.folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)


class InContainers:
    """The workbench of workbench/compose.yaml."""

    kind = "docker"

    def _compose(self, *words: str, **how) -> bytes:
        return _run(["docker", "compose", "-f", str(root() / "workbench" / "compose.yaml"), *words], **how)

    def _shell(self, script: str, **how) -> bytes:
        """A script in the folder of the artifacts, in a container of its own."""
        script = f"cd /artifacts; {script}"
        return self._compose("run", "--rm", "--no-deps", "-T", "mlflow", "sh", "-euc", script, **how)

    @contextmanager
    def opened(self):
        """While its databases answer: the running ones, else they are started for this time. Gives what ran before."""
        was = self._compose("ps", "--services", "--status", "running").decode().split()
        self._compose("up", "--detach", "--wait", "--no-recreate", "postgres")
        try:
            yield was
        finally:
            if "postgres" not in was:
                self._compose("stop", "postgres")

    def run(self, program: str, *arguments: str, database: str, **how) -> bytes:
        where = ["--env", f"PGUSER={postgres.ROLE}", "--env", f"PGDATABASE={database}"]
        return self._compose("exec", "-T", *where, "postgres", program, *arguments, **how)

    def add_files(self, tar: tarfile.TarFile) -> int:
        with tempfile.TemporaryFile(dir=Path(tar.name).parent) as copy:
            self._shell("tar -c --ignore-failed-read --exclude=./.new . || [ $? = 1 ]", stdout=copy)  # 1: one changed
            copy.seek(0)
            with tarfile.open(fileobj=copy) as files:
                found = [one for one in files if one.isfile()]
                for one in found:
                    _add(tar, "artifacts/" + one.name.removeprefix("./"), files.extractfile(one), one.size)
        return len(found)

    def restore(self, file: Path, tar: tarfile.TarFile, manifest: dict, force: bool) -> None:
        """With MLflow stopped: back up what is there, lay the new files beside, exchange the rows, then the files."""
        with self.opened() as was:
            there = self.run("psql", "-Atc", "SELECT to_regclass('alembic_version')", database="mlflow").strip()
            if (there := there or self._shell("ls -A -I .new")) and not force:
                raise CourseError(
                    f"The workbench in containers holds data already: `course restore --docker --force` puts that of "
                    f"{file} in its place, and keeps yours as another backup beside that file."
                )
            self._compose("stop", "mlflow")
            try:
                if there:
                    backup(kept := kept_name(file), docker=True)
                    print(f"What was there is kept as {kept}: `course restore --docker` puts it back.", flush=True)
                with open(file, "rb") as whole:
                    untar = "tar -x -C .new --strip-components=1 artifacts" if manifest["artifacts"] else ""
                    self._shell(f"rm -rf .new; mkdir .new; {untar}", stdin=whole)
                hashed = self._shell(f"python -c '{HASH}'").decode().strip()  # the password is in workbench/.env
                _load(self, tar, manifest["rows"], hashed)
                self._shell(
                    "find . -mindepth 1 -maxdepth 1 ! -name .new -exec rm -rf {} +;"
                    "find .new -mindepth 1 -maxdepth 1 -exec mv -t . {} +; rmdir .new"
                )
            finally:
                if "mlflow" in was:
                    self._compose("up", "--detach", "--wait", "--no-recreate", "mlflow")


def backup(file: Path, *, docker: bool = False) -> str:
    """Write all that the workbench holds into a new file; returns what. It appears whole or not at all."""
    if file.exists():
        raise CourseError(f"{file} exists, and a backup overwrites nothing: name another file, or move that one.")
    bench, part = InContainers() if docker else OnThisMachine(), file.with_name(file.name + ".part")
    with bench.opened():
        try:
            part.unlink(missing_ok=True)
            part.touch(mode=0o600)  # it holds accounts
            with open(part, "w+b") as out:
                with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": MARK}) as tar:
                    manifest = _write(bench, tar)
                out.flush()
                out.write(_seal(out, out.tell()))
                out.flush()
                os.fsync(out.fileno())
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
    return manifest["holds"]


def restore(file: Path, *, docker: bool = False, force: bool = False) -> str:
    """Put the workbench of that file in place; returns what it holds. Nothing changes before all of it is examined."""
    bench = InContainers() if docker else OnThisMachine()
    with open(file, "rb") as raw:
        manifest = _examine(file, raw, bench)
        with tarfile.open(fileobj=raw) as tar:
            bench.restore(file, tar, manifest, force)
    return manifest["holds"]


def _write(bench, tar: tarfile.TarFile) -> dict:
    manifest = {"kind": bench.kind, "mlflow": version("mlflow"), "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    manifest["rows"] = rows = {}
    for database in reversed(postgres.DATABASES):
        dump = bench.run("pg_dump", "--format=custom", database=database)
        data = bench.run("pg_restore", "--data-only", "--file=-", database=database, input=dump)
        rows[database] = _rows(data)
        _add(tar, f"{database}.dump", io.BytesIO(dump), len(dump))
    if not rows["mlflow"]:
        raise CourseError("MLflow never started on this workbench, and there is nothing to back up: start it first.")
    manifest["schema"] = re.search(rb"COPY public.alembic_version .*\n(\w+)", data)[1].decode()
    manifest["postgres"] = re.search(rb"Dumped from database version (\d+)", data)[1].decode()
    manifest["artifacts"] = bench.add_files(tar)
    runs, versions = (rows["mlflow"][f"public.{table}"] for table in ("runs", "model_versions"))
    manifest["holds"] = f"{runs} runs, {versions} model versions and {manifest['artifacts']} artifact files"
    text = json.dumps(manifest, indent=1).encode()
    _add(tar, "manifest.json", io.BytesIO(text), len(text))
    return manifest


def _examine(file: Path, raw, bench) -> dict:
    """The manifest of a backup that is whole, and fits this workbench and this MLflow."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    if MARK.encode() not in raw.read(1024):
        raise CourseError(f"{file} is no backup of a workbench, or its beginning is damaged: {AGAIN}.")
    size = raw.seek(-len(SEAL) - 64, os.SEEK_END)
    seal = raw.read()
    if not seal.startswith(SEAL):
        raise CourseError(f"{file} is cut short or damaged at its end: {AGAIN}.")
    if seal != _seal(raw, size):
        raise CourseError(f"{file} is damaged, because its checksum does not agree: {AGAIN}.")
    raw.seek(0)
    with tarfile.open(fileobj=raw) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
    raw.seek(0)
    if manifest["kind"] != bench.kind:
        how = "without" if bench.kind == "docker" else "with"
        raise CourseError(f"{file} is of the other kind of workbench: restore it {how} --docker.")
    if manifest["schema"] != _get_latest_schema_revision():
        raise CourseError(
            f"{file} comes from MLflow {manifest['mlflow']}, whose tables are not those of MLflow {version('mlflow')} "
            "here: restore it with the course of that time."
        )
    return manifest


def _load(bench, tar: tarfile.TarFile, rows: dict, admin: str = "") -> None:
    """Exchange what the databases hold: all of one, with every row that the manifest counts, or nothing of it."""
    for database in reversed(postgres.DATABASES):
        dump = tar.extractfile(f"{database}.dump").read()
        sql = [EMPTY.encode(), bench.run("pg_restore", "--no-owner", "--file=-", database=database, input=dump)]
        # division by zero, and with it the end of the transaction, where rows are missing
        sql += [f"SELECT 1 / (count(*) = {n})::int FROM {table};\n".encode() for table, n in rows[database].items()]
        if admin and rows[database].get("public.users"):
            sql.append(f"UPDATE public.users SET password_hash = '{admin}' WHERE username = 'admin';\n".encode())
        bench.run("psql", "-X1qv", "ON_ERROR_STOP=1", database=database, input=b"".join(sql))


def _rows(sql: bytes) -> dict[str, int]:
    """How many rows each table has in a dump as text, where each row is a line, and one of backslash and dot ends."""
    tables = re.findall(rb"^COPY (\S+) .*?\n(.*?)^\\\.$", sql, re.MULTILINE | re.DOTALL)
    return {table.decode(): lines.count(b"\n") for table, lines in tables}


def _add(tar: tarfile.TarFile, name: str, file, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, int(time.time())
    entry.mode = 0o644 if name.startswith("artifacts/") else 0o600
    tar.addfile(entry, file)


def _seal(file, size: int) -> bytes:
    """What stands behind the tar: the checksum of that many bytes."""
    return SEAL + hashlib.sha256(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)).hexdigest().encode()


def _run(words: list[str], **how) -> bytes:
    if "input" not in how:
        how = {"stdin": subprocess.DEVNULL} | how
    done = subprocess.run(words, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how))
    if done.returncode:
        tail = "\n".join(done.stderr.decode(errors="replace").splitlines()[-5:])
        raise CourseError(f"`{Path(words[0]).name}` ended with an error; the end of what it said:\n{tail}")
    return done.stdout
