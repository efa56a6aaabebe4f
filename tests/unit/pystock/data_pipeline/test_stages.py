"""Tables in parts on disk: atomic, checked, and one writer at a time."""

import errno
import os

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
    assert first < {path.name for path in folder.glob("part-*")}  # a reader may have the old manifest
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
    with pytest.raises(PipelineError, match=rf"{part.name} cannot be read \(No such file"):
        stages.read(folder)
    (folder / "manifest.json").write_text('{"rows": ')
    with pytest.raises(PipelineError, match="manifest.json cannot be read"):
        stages.manifest(folder)


def test_no_table_and_no_such_market(tmp_path):
    with pytest.raises(PipelineError, match="has no table yet"):
        stages.read(tmp_path)
    for market in ("../x", "a/b", "", "a'b"):
        with pytest.raises(PipelineError, match="is not a market name"):
            stages.stage_folder(tmp_path, market, "raw")


def test_a_reader_gets_the_new_table_if_the_old_one_is_removed_meanwhile(folder, monkeypatch):
    old = stages.write(folder, table(5), {})
    stages.write(folder, table(5, 2.0), {})
    stages.write(folder, table(5, 3.0), {})  # which removes the parts of the first
    given, real = [old], stages.manifest
    monkeypatch.setattr(stages, "manifest", lambda folder: given.pop() if given else real(folder))
    assert stages.read(folder).equals(table(5, 3.0)) and not given


def test_a_full_disk_is_one_sentence_and_the_old_table_stays(folder, monkeypatch):
    stages.write(folder, table(5), {})

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PipelineError) as caught:
        stages.write(folder, table(9, 2.0), {})
    assert "cannot be written (No space left on device), so it is unchanged" in str(caught.value)
    monkeypatch.undo()
    assert stages.read(folder).equals(table(5))


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "stages").write_text("")
    with pytest.raises(PipelineError, match="cannot be used"), stages.locked(tmp_path / "stages"):
        pass
    with pytest.raises(PipelineError, match="cannot be written"):
        stages.write(tmp_path / "stages" / "sp500" / "raw", table(5), {})
