"""Batch jobs in processes that are killed or run out of disk: the next one ends with the bytes of an unbroken one."""

import os
import random
import subprocess
import sys

import pandas as pd
import pytest
from batch_jobs import ONE_WORKER, contents, in_process, job_killed_at, run_job, with_bad_rows, write, write_partitions

from pystock.batch import BatchError

pytestmark = ONE_WORKER
PLACES = 10  # of files and of folders each, as chapter 16 says


@pytest.mark.skipif(os.name == "nt", reason="kills processes")
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_killed_job_resumes_and_makes_the_same_bytes(champion, days, tmp_path, folder):
    """Killed over an output that is there: it is the old one or the new one, or for a moment no folder."""
    if folder:
        source, name = write_partitions(with_bad_rows(days), tmp_path / "in", "parquet"), "out"
        before = write_partitions(days.head(500), tmp_path / "old", "parquet")
    else:
        source, name = write(with_bad_rows(days), tmp_path / "in.csv"), "out.csv"
        before = write(days.head(500), tmp_path / "old.csv")
    run_job(source, tmp_path / "unbroken" / name)
    wanted = contents(tmp_path / "unbroken")
    run_job(before, tmp_path / "lives" / name)
    assert in_process(job_killed_at, -1, tmp_path / "steps", source, tmp_path / "lives" / name) == 0
    steps, seed = int((tmp_path / "steps").read_text()), random.randrange(10**6)
    draw = random.Random(seed)
    data = {file for file in wanted if "part-0" in file or file == name}
    for part in range(PLACES):
        step = int((part + draw.random()) * steps / PLACES)
        print(f"seed {seed}: killed before step {step} of {steps}")
        place = tmp_path / f"killed-{step}"
        run_job(before, place / name)
        old = contents(place)
        assert in_process(job_killed_at, step, "", source, place / name) == -9
        if folder and not (place / name / "_SUCCESS").exists():
            assert step > steps / 2  # all chunks are done before the old output is touched
        else:
            now = {file: text for file, text in contents(place).items() if file in data}
            assert any(now == {file: whole[file] for file in data if file in whole} for whole in (old, wanted))
        assert run_job(source, place / name).rows == 1006 and contents(place) == wanted
    for _ in range(5):  # one job again and again, soon after it has begun: a chunk further at most
        assert in_process(job_killed_at, draw.randrange(5, 9), "", source, tmp_path / "often" / name) == -9
    assert "of them before this job was resumed" in run_job(source, tmp_path / "often" / name).said
    assert contents(tmp_path / "often") == wanted


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 600 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() or _mount(folder, "size=600k"):
        pytest.skip("needs root on Linux, and the right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _mount(folder, options):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode


def test_a_full_disk_leaves_the_old_output_and_the_next_job_resumes(champion, days, tmp_path, small_disk):
    source, output = write(pd.concat([days] * 5), tmp_path / "days.csv"), small_disk / "out.csv"
    output.write_text("the old output\n")
    with pytest.raises(BatchError, match=r"out.csv cannot be written .No space left on device., so it is unchanged"):
        run_job(source, output, chunk_rows=500)
    assert output.read_text() == "the old output\n" and not (small_disk / "out.csv.partial" / "new").exists()
    assert _mount(small_disk, "remount,size=10m") == 0
    assert "of them before this job was resumed" in run_job(source, output, chunk_rows=500).said
    run_job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=500)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()
