"""Batch jobs in processes that are killed or run out of disk: the next one ends with the bytes of an unbroken one."""

import random

import pandas as pd
import pytest
from batch_jobs import (
    contents,
    in_process,
    job_killed_at,
    job_with_little_room,
    needs_fork,
    run_job,
    with_bad_rows,
    write,
    write_partitions,
)

pytestmark = [
    needs_fork,
    pytest.mark.filterwarnings("ignore:.*input example:UserWarning"),  # advice to those who log models
    pytest.mark.filterwarnings("ignore:Operation with range"),  # MLflow's own code on pandas 3
    pytest.mark.xdist_group("batch"),
]


@pytest.mark.parametrize("folder", [False, True])
def test_a_killed_job_resumes_and_makes_the_same_bytes(champion, days, tmp_path, folder):
    rows = with_bad_rows(days)
    source = write_partitions(rows, tmp_path / "in", "csv") if folder else write(rows, tmp_path / "in.csv")
    name = "out" if folder else "out.csv"
    run_job(source, tmp_path / "unbroken" / name)
    assert in_process(job_killed_at, -1, tmp_path / "steps", source, tmp_path / "lives" / name) == 0
    steps, seed = int((tmp_path / "steps").read_text()), random.randrange(10**6)
    step = random.Random(seed).randrange(steps)
    print(f"seed {seed}: killed before step {step} of {steps}")
    assert in_process(job_killed_at, step, "", source, tmp_path / "killed" / name) == -9
    assert run_job(source, tmp_path / "killed" / name).rows == 1006
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")


def test_a_full_disk_leaves_the_old_output_and_the_next_job_resumes(champion, days, tmp_path):
    database = champion / "mlflow.db"
    large = pd.concat([days] * (3 * database.stat().st_size // 140_000 + 1))
    source, output = write(large, tmp_path / "days.csv"), tmp_path / "out.csv"
    output.write_text("the old output\n")
    room = database.stat().st_size + 200_000
    assert in_process(job_with_little_room, room, tmp_path / "message", source, output, chunk_rows=1000) == 0
    message = (tmp_path / "message").read_text()
    assert f"{output} cannot be written (File too large), and is as it was before" in message and "\n" not in message
    assert output.read_text() == "the old output\n" and not (tmp_path / "out.csv.partial" / "new").exists()
    assert "of them before this job was resumed" in run_job(source, output, chunk_rows=1000).said
    run_job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=1000)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()
