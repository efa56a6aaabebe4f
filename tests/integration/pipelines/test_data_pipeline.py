"""The data pipeline in processes: `mlflow run`, a second one at the same folder, and kills at each moment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_course import CHECKOUT, COURSE, clean_environment

from course import store
from pystock import data
from pystock.data_pipeline import check, load_raw, make_features, stages
from pystock.pipeline import PipelineError

PROJECT = CHECKOUT / "projects" / "pystock-data-features"


def test_the_project_by_mlflow_run(empty_store, tmp_path):
    """main, main again, and one step alone with another market."""
    state = tmp_path / "Zustand für alle"
    state.mkdir()
    store.copy(empty_store, state / "store")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment(COURSE_STATE=state, PATH=path, PYSTOCK_STAGES=str(state / "Stufen"))
    command = [COURSE, "mlflow", "run", PROJECT, "--env-manager", "local", "--experiment-name", "data"]
    for options, word in (
        ("-P target=direction", "sp500: 5,031 rows loaded, because there was no table yet"),
        ("-P target=direction", "sp500: skipped, because input, parameters and code"),
        ("-e load_raw_data -P market=nasdaq -P force=yes", "nasdaq: 5,031 rows loaded, because force was set"),
    ):
        run = {"capture_output": True, "text": True, "timeout": 600, "cwd": state, "env": environment}
        done = subprocess.run([*command, *options.split()], **run)
        assert done.returncode == 0 and f"load_raw_data: {word}" in done.stdout, done.stdout + done.stderr
    assert (state / "Stufen" / "sp500" / "training" / "direction-volatility" / "manifest.json").exists()
    assert not (PROJECT / "stages").exists() and not list(state.glob("mlruns"))


HOLDER = """
import sys
from pystock.data_pipeline import stages
with stages.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        refusal = rf"is in use by a data pipeline \(process {holder.pid} on .*, since 20"
        with pytest.raises(PipelineError, match=refusal), stages.locked(tmp_path):
            pass
        holder.kill()
    with stages.locked(tmp_path), stages.locked(tmp_path):  # and one may nest
        assert (tmp_path / ".lock-owner").read_text().startswith(f"process {os.getpid()} on ")


# A kill at each second moment of a pipeline that takes in new days: in the middle of the bytes, or after a call. Each
# is in a fork of one prepared process.
KILLED = """
import io, os, shutil, signal, sys
from pathlib import Path
import pandas as pd
from pystock import data_pipeline, files

base, source, work = map(Path, sys.argv[1:])
data_pipeline.contract.trading_days("XNYS", pd.Timestamp("2014-01-01"), pd.Timestamp("2015-12-31"))
moment = seen = 0

def with_a_moment_after(call):
    def replaced(*arguments):
        global seen
        answer = call(*arguments)
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return replaced

class Halves(io.FileIO):
    def write(self, data):
        with_a_moment_after(super().write)(data[: len(data) // 2])
        super().write(data[len(data) // 2 :])

status = signal.SIGKILL
while os.WIFSIGNALED(status):
    moment += 1 if moment == 0 else 2
    folder = work / f"{moment:03d}"
    shutil.copytree(base, folder)
    if os.fork() == 0:
        os.fsync, os.replace = with_a_moment_after(os.fsync), with_a_moment_after(os.replace)
        Path.unlink, files.open = with_a_moment_after(Path.unlink), Halves
        data_pipeline.load_raw(folder, "sp500", str(source))
        data_pipeline.check(folder, "sp500")
        data_pipeline.make_features(folder, "sp500", end="")
        os._exit(0)
    status = os.wait()[1]
print(moment, status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of one process, which Windows has not")
def test_a_kill_at_any_moment_leaves_the_old_tables_or_the_new_ones(tmp_path):
    lines = (data.embedded_folder() / "sp500.csv").read_text().splitlines(keepends=True)
    days = [line for line in lines[1:] if line.startswith(("2014", "2015"))]
    source, base, work = tmp_path / "sp500.csv", tmp_path / "base", tmp_path / "work"
    work.mkdir()

    def take(rows: list[str], folder: Path) -> dict[str, str]:
        source.write_text("".join([lines[0], *rows]))
        results = [load_raw(folder, "sp500", str(source)), check(folder, "sp500")]
        results.append(make_features(folder, "sp500", end=""))
        return {result.stage: result.manifest["digest"] for result in results}

    def held(folder: Path) -> dict[str, str]:
        """The digests of the tables as they can be read, which the manifests must confirm."""
        places = {stage: folder / "sp500" / stage for stage in ("raw", "staging")}
        places["training"] = folder / "sp500" / "training" / "big_move-volatility"
        digests = {stage: stages.digest(stages.read(place)) for stage, place in places.items()}
        assert digests == {stage: stages.manifest(place)["digest"] for stage, place in places.items()}
        return digests

    before = take(days[:-10], base)
    # New days alone, and with a day withdrawn in the middle, so that all tables are written anew
    for name, rows in {"appended": days, "anew": [*days[:300], *days[301:]]}.items():
        new, spot = take(rows, tmp_path / f"whole-{name}"), work / name
        spot.mkdir()
        source.write_text("".join([lines[0], *rows]))
        command = [sys.executable, "-c", KILLED, base, source, spot]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        last, status = map(int, done.stdout.split())
        assert status == 0 and last > 20, done.stdout + done.stderr
        states = [held(spot / f"{moment:03d}") for moment in range(1, last + 1, 2)]
        for state in states:
            assert all(state[stage] in (before[stage], new[stage]) for stage in state)
        assert states[0] == before and states[-1] == new and len({tuple(state.items()) for state in states}) == 4
        for moment in range(1, last, 12):  # the next run ends where an undisturbed one does
            assert take(rows, spot / f"{moment:03d}") == new and not list((spot / f"{moment:03d}").rglob("*.new"))
