"""Tables in parts on disk: atomic, checked, and one writer at a time, with real processes that are killed."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pystock.data_pipeline import stages
from pystock.pipeline import PipelineError


def table(rows: int, value: float = 1.0) -> pd.DataFrame:
    days = pd.date_range("2020-01-01", periods=rows, name="Date").as_unit("us")
    return pd.DataFrame({"x": value, "n": range(rows), "text": "ä"}, index=days)


@pytest.fixture
def folder(tmp_path):
    return stages.stage_folder(tmp_path / "Stufen für alle", "sp500", "staging")


def test_what_is_written_is_read(folder):
    manifest = stages.write(folder, table(5), {"market": "sp500"})
    assert stages.read(folder).equals(table(5)) and stages.manifest(folder) == manifest
    assert manifest["market"] == "sp500" and manifest["rows"] == 5 and manifest["digest"] == stages.digest(table(5))
    assert [part["file"].rpartition("-")[0] for part in manifest["parts"]] == ["part-20200101-20200105"]


def test_later_rows_are_one_more_part_and_the_others_are_not_touched(folder):
    manifest, written = stages.write(folder, table(5), {}), {}
    for rows in (6, 9):
        written |= {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
        manifest = stages.write(folder, table(rows), {}, kept=manifest)
        assert stages.read(folder).equals(table(rows)) and manifest["digest"] == stages.digest(table(rows))
    assert [part["rows"] for part in manifest["parts"]] == [5, 1, 3]
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == written


def test_many_parts_become_one(folder):
    manifest = stages.write(folder, table(1), {})
    for rows in range(2, stages.MOST_PARTS + 4):
        manifest = stages.write(folder, table(rows), {}, kept=manifest)
        assert len(manifest["parts"]) <= stages.MOST_PARTS
    assert len(manifest["parts"]) < 5 and stages.read(folder).equals(table(rows))


def test_parts_that_no_manifest_names_are_removed_by_the_next_write(folder):
    stages.write(folder, table(5), {})
    first = {path.name for path in folder.glob("part-*")}
    stages.write(folder, table(5, value=2.0), {})
    (folder / "part-of-a-run-that-died.parquet").write_bytes(b"half")
    (folder / "manifest.json.new").write_bytes(b"half")
    assert first < {path.name for path in folder.glob("part-*")}  # somebody may be reading it
    stages.write(folder, table(5, value=3.0), {})
    assert not first & {path.name for path in folder.iterdir()}
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".parquet", ".parquet"]


def test_the_digest_knows_the_table_and_not_its_parts():
    assert stages.digest(table(5)) == stages.digest(pd.concat([table(5).iloc[:2], table(5).iloc[2:]]))
    others = [table(4), table(5, 2.0), table(5).rename(columns={"x": "y"}), table(5).astype({"n": float}), table(6)[1:]]
    others += [table(5)[["n", "x", "text"]], table(5).assign(text=["ää", "", "ä", "ä", "ä"])]
    assert len({stages.digest(other) for other in [table(5), *others]}) == 8


def test_a_damaged_part_is_named(folder):
    part = folder / stages.write(folder, table(5), {})["parts"][0]["file"]
    assert stages.intact(folder, stages.manifest(folder))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(PipelineError, match=f"{part.name} is damaged"):
        stages.read(folder)
    part.write_bytes(data[:-1])
    assert not stages.intact(folder, stages.manifest(folder))
    part.unlink()
    assert not stages.intact(folder, stages.manifest(folder))
    with pytest.raises(PipelineError, match=f"{part.name} is missing though the manifest names it"):
        stages.read(folder)


def test_a_manifest_that_cannot_be_read_is_named(folder):
    stages.write(folder, table(5), {})
    (folder / "manifest.json").write_text('{"rows": ')
    with pytest.raises(PipelineError, match="manifest.json cannot be read"):
        stages.manifest(folder)


def test_no_table_and_no_such_stage(tmp_path):
    with pytest.raises(PipelineError, match="holds no table yet"):
        stages.read(tmp_path)
    for arguments in (("sp500", "stage"), ("../x", "raw"), ("a/b", "raw"), ("", "raw"), ("a'b", "raw")):
        with pytest.raises(PipelineError):
            stages.stage_folder(tmp_path, *arguments)
    with pytest.raises(PipelineError, match="question"):
        stages.stage_folder(tmp_path, "sp500", "training")


def test_who_reads_while_the_table_is_replaced_gets_the_new_one(folder, monkeypatch):
    old = stages.write(folder, table(5), {})
    stages.write(folder, table(5, 2.0), {})
    stages.write(folder, table(5, 3.0), {})  # which removes the parts of the first
    given, real = [old], stages.manifest
    monkeypatch.setattr(stages, "manifest", lambda folder: given.pop() if given else real(folder))
    assert stages.read(folder).equals(table(5, 3.0)) and not given


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_is_one_sentence_and_the_old_table_stands(call, folder, monkeypatch):
    stages.write(folder, table(5), {})

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(PipelineError) as caught:
        stages.write(folder, table(9, 2.0), {})
    assert "cannot be written (No space left on device), and is as it was before" in str(caught.value)
    monkeypatch.undo()
    assert stages.read(folder).equals(table(5))


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "stages").write_text("")
    with pytest.raises(PipelineError, match="cannot be used"), stages.locked(tmp_path / "stages"):
        pass
    with pytest.raises(PipelineError, match="cannot be written"):
        stages.write(tmp_path / "stages" / "sp500" / "raw", table(5), {})


HOLDER = """
import sys
from pystock.data_pipeline import stages
with stages.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_is_at_work_and_a_killed_one_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(PipelineError, match=rf"at work in .* \(process {holder.pid} on .*, since 20"):
            with stages.locked(tmp_path):
                pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with stages.locked(tmp_path), stages.locked(tmp_path):  # and one may nest
        assert json.loads((tmp_path / ".lock-owner.json").read_text())["process"].split("|")[1] == str(os.getpid())


# A kill at each moment of a pipeline that takes in new days: one fork of a prepared process for each.
KILLED = """
import builtins, os, shutil, signal, sys
from pathlib import Path
from pystock import files
from pystock.data_pipeline import contract
from pystock.data_pipeline import steps as data_pipeline
from pystock.data_pipeline import stages

base, source, work = map(Path, sys.argv[1:])
contract.trading_days("XNYS", *(__import__("pandas").Timestamp(day) for day in ("2014-01-01", "2015-12-31")))

def run(folder):
    data_pipeline.load_raw(folder, "sp500", str(source))
    data_pipeline.check(folder, "sp500")
    data_pipeline.make_features(folder, "sp500", end="")

def counted(moment):
    # die at the given moment: in the middle of the bytes, or after a call, which is before the next one
    seen = 0
    def now():
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    def around(call):
        def replaced(*arguments, **options):
            answer = call(*arguments, **options)
            now()
            return answer
        return replaced
    class Half:
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *error): self.file.close()
        def __getattr__(self, name): return getattr(self.file, name)
        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            now()
            self.file.write(data[len(data) // 2 :])
    os.fsync, os.replace = around(os.fsync), around(os.replace)
    Path.unlink = around(Path.unlink)
    files.open = lambda *arguments: Half(builtins.open(*arguments))
    return lambda: seen

moment = 0
while True:
    moment += 1
    folder = work / f"{moment:03d}"
    shutil.copytree(base, folder)
    child = os.fork()
    if child == 0:
        try:
            counted(moment)
            run(folder)
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        print(moment, status, flush=True)
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of one process, which Windows has not")
def test_killed_at_each_moment_it_leaves_the_old_tables_or_the_new(tmp_path):
    from pystock import data
    from pystock.data_pipeline import steps as data_pipeline

    lines = (data.embedded_folder() / "sp500.csv").read_text().splitlines(keepends=True)
    days = [line for line in lines[1:] if line.startswith(("2014", "2015"))]
    source, base, work = tmp_path / "sp500.csv", tmp_path / "base", tmp_path / "work"
    work.mkdir()

    def take(rows: list[str], folder: Path) -> dict[str, str]:
        source.write_text("".join([lines[0], *rows]))
        results = [data_pipeline.load_raw(folder, "sp500", str(source)), data_pipeline.check(folder, "sp500")]
        results.append(data_pipeline.make_features(folder, "sp500", end=""))
        return {result.stage: result.manifest["digest"] for result in results}

    def held(folder: Path) -> dict[str, str]:
        """The digests of the tables as they can be read, which the manifests must confirm."""
        places = {stage: folder / "sp500" / stage for stage in ("raw", "staging")}
        places["training"] = folder / "sp500" / "training" / "big_move-volatility"
        for place in places.values():
            assert stages.digest(stages.read(place)) == stages.manifest(place)["digest"]
        return {stage: stages.manifest(place)["digest"] for stage, place in places.items()}

    before = take(days[:-10], base)
    # New days alone, and with a day withdrawn in the middle, so that all tables are written anew
    for name, rows in {"appended": days, "anew": [*days[:300], *days[301:]]}.items():
        new, spot = take(rows, tmp_path / f"whole-{name}"), work / name
        spot.mkdir()
        source.write_text("".join([lines[0], *rows]))
        done = subprocess.run(
            [sys.executable, "-c", KILLED, base, source, spot], capture_output=True, text=True, timeout=400
        )
        last, status = map(int, done.stdout.split())
        assert status == 0 and done.returncode == 0 and last > 20, done.stdout + done.stderr
        states = [held(spot / f"{moment:03d}") for moment in range(1, last + 1)]
        for state in states:
            assert all(state[stage] in (before[stage], new[stage]) for stage in state)
        assert states[0] == before and states[-1] == new and len({tuple(state.items()) for state in states}) == 4
        for moment in range(1, last, 6):  # the next run ends where an undisturbed one does
            assert take(rows, spot / f"{moment:03d}") == new
            assert not list((spot / f"{moment:03d}").rglob("*.new"))
