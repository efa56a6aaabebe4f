"""`course backup` and `course restore` of the workbench on this machine: back up, destroy, restore, all is there."""

import gzip
import os
import random
import shutil
import tarfile
import zlib
from pathlib import Path

import pytest
from backup_content import READ, WORK, changed
from fake_course import FakeCourse, open_folder

from course import CourseError
from course.workbench import backup, postgres
from course.workbench import local as workbench

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="no PostgreSQL there"), pytest.mark.xdist_group("backup")]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with what is in it and its mode."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode) for path in files}


def account(bench) -> dict[str, str]:
    name, password = workbench.admin(bench.folder)
    return {"MLFLOW_TRACKING_URI": bench.url, "MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


@pytest.fixture(scope="module")
def course():
    with open_folder() as folder:
        course = FakeCourse(folder / "für alle")
        with course.here():
            yield course
        course.end_all()


@pytest.fixture(scope="module")
def saved(course):
    """A backup taken while the workbench ran, and what a client read from it at that time."""
    file = course.root / "while it ran.tar"
    with workbench.start(workbench.folder(), auth=True) as bench:
        before = course.python(WORK + READ, **account(bench)).splitlines()[-1]
        done = course.invoke("backup", file)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith(f"{file} holds 1 runs, 1 model versions and 6 artifact files")
        refused = course.invoke("restore", "--force", file)
        assert refused.exit_code == 1 and f"A workbench is already running in {bench.folder}" in refused.stderr
    return file, before


def test_all_is_there_after_it_was_destroyed(course, saved):
    file, before = saved
    assert file.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(workbench.folder())
    done = course.invoke("restore", file)
    assert done.exit_code == 0, done.stderr
    assert (workbench.folder() / "accounts.json").stat().st_mode & 0o777 == 0o600
    with workbench.start(workbench.folder(), auth=True) as bench:
        assert course.python(READ, **account(bench)).splitlines()[-1] == before


def test_a_stopped_workbench_and_one_in_the_way(course, saved, capsys):
    """The second backup holds what the first does; restored by force, the other workbench is kept beside it."""
    file, again = saved[0], course.root / "stopped.tar"
    assert backup.backup(again).startswith("1 runs, 1 model versions and 6 artifact files")
    with tarfile.open(file) as one, tarfile.open(again) as two:
        assert one.getnames() == two.getnames()
        for name in one.getnames():
            if one.getmember(name).isfile() and not name.endswith((".sql", "manifest.json")):
                assert one.extractfile(name).read() == two.extractfile(name).read()
    with pytest.raises(CourseError, match="stopped.tar already exists, and a backup never overwrites: choose"):
        backup.backup(again)
    before = tree(workbench.folder())
    with pytest.raises(CourseError, match="already holds a workbench: to replace it with the one in .*, add --force"):
        backup.restore(again)
    assert tree(workbench.folder()) == before
    backup.restore(again, force=True)
    kept = workbench.folder().with_name("workbench.kept-1")
    assert f"The previous workbench is kept as {kept}.\n" in capsys.readouterr().out
    assert tree(kept).keys() - {"running.lock"} == before.keys() - {"running.lock"}
    assert tree(workbench.folder() / "artifacts") == tree(kept / "artifacts")
    owners = {path.stat().st_uid for path in (workbench.folder() / "postgres").rglob("*")}
    assert owners == {postgres.account(kept / "postgres")}


def unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def test_what_is_not_a_whole_backup_is_refused(course, saved):
    """Before anything changes: damaged in any place, cut at any, another file, one of the other kind."""
    file, bad = saved[0], course.root / "schlecht ü.tar"
    whole = file.read_bytes()
    seed = random.randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    before, siblings = tree(course.state), sorted(course.state.iterdir())

    def refused(reason: str, **options) -> None:
        with pytest.raises(CourseError) as caught:
            backup.restore(bad, force=True, **options)
        assert str(caught.value).startswith(f"{bad} ") and reason in str(caught.value)

    with tarfile.open(bad, "w:gz") as other:
        other.add(__file__, "a file")
    contents = [whole[: draw.randrange(len(whole))], whole[:-1], b"", b"hello", gzip.compress(draw.randbytes(5000))]
    contents.append(bad.read_bytes())
    for place in (*(draw.randrange(100, len(whole)) for _ in range(12)), 0, len(whole) - 1):
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        if unpacked(bytes(broken)) != unpacked(whole):  # a flipped bit may leave the content as it was: no damage
            contents.append(bytes(broken))
    for content in contents:
        bad.write_bytes(content)
        refused("is not a backup of a workbench, or is damaged (")
    shutil.copy(file, bad)
    refused("comes from a workbench without containers: restore it without --docker.", docker=True)
    changed(file, bad, '"kind": "process"', '"kind": "docker"')
    refused("comes from a workbench with containers: restore it with --docker.")
    changed(file, bad, '"mlflow": "', '"mlflow": "4')
    refused("restore it with the version of the course that made it.")
    assert tree(course.state) == before and sorted(course.state.iterdir()) == siblings


def test_a_restore_that_fails_leaves_the_old_one(course, saved):
    before, siblings = tree(course.state), sorted(course.state.iterdir())
    bad = changed(saved[0], course.root / "bad.tar", "COPY public.runs ", "COPY public.other ")
    with pytest.raises(CourseError, match="`psql` failed. The end of its output:"):
        backup.restore(bad, force=True)
    after = tree(course.state)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"workbench/running.lock"}
    assert sorted(course.state.iterdir()) == siblings
