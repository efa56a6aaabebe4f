"""Measure what a newcomer waits for, and write bench/results.json. Run it by `make bench` on a quiet machine.

A clone of the last commit is set up and run in a temporary folder, as the README says. The package cache should be
warm: run it twice, and believe the second.
"""

import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path

from summary import summary

ROOT = Path(__file__).parents[1]
RUNS = 3  # of `make course`; the machine is noisy


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def timed(*command: str, folder: Path) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def runs_in(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            return connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.OperationalError:  # its tables are being made
            return 0


def course(clone: Path) -> dict:
    """One `make course` on an empty store: seconds in all, to the first run, and of each chapter."""
    state = clone / ".course"
    if state.exists():
        state.rename(state.with_name(f".course-{time.monotonic_ns()}"))
    start = time.monotonic()
    process = subprocess.Popen(
        ["make", "course"], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    first = None
    while process.poll() is None:
        if first is None and runs_in(state / "store" / "mlflow.db"):
            first = time.monotonic() - start
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"`make course` failed in the clone:\n{process.stdout.read()}")
    figures = {"seconds": time.monotonic() - start, "first run after": first, "chapters": {}}
    table = {line.split()[0]: float(line.split()[2]) for line in process.stdout if " passed " in line}
    for name, seconds in table.items():
        cells = json.loads((state / "runs" / f"{name}.ipynb").read_text())["cells"]
        within = sum((cell["metadata"].get("papermill", {}).get("duration") or 0) for cell in cells)
        figures["chapters"][name] = {"seconds": seconds, "runner adds": seconds - within}
    return figures


def main():
    if git("status", "--porcelain", "--untracked-files=no"):
        print("Uncommitted changes are not measured: the clone holds the last commit.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root PostgreSQL runs under another account, which has to get in
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        figures = {"set-up": round(timed("make", "setup", folder=clone), 1)}
        figures["set-up, nothing to do"] = round(timed("make", "setup", folder=clone), 1)
        tries = [course(clone) for _ in range(RUNS)]
    figures["make course, once set up"] = summary([one["seconds"] for one in tries], 1)
    figures["make course to the first run in the store"] = summary([one["first run after"] for one in tries], 1)
    for name in tries[0]["chapters"]:
        for key in ("seconds", "runner adds"):
            figures[f"{name}, {key}"] = summary([one["chapters"][name][key] for one in tries], 1)
    import api
    import batch
    import data_pipeline
    import team
    import tracking
    import training_pipeline
    import tuning

    figures["tracked over untracked training"] = tracking.measure()
    figures["trials of a study"] = tuning.measure()
    figures["data pipeline"] = data_pipeline.measure()
    figures["training pipeline"] = training_pipeline.measure()
    figures["batch inference"] = batch.measure()
    figures["inference API"] = api.measure()
    figures["workbench"] = team.measure()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    about = {
        "unit": "seconds",
        "machine": machine,
        "date": date.today().isoformat(),
        "commit": git("rev-parse", "HEAD"),
    }
    text = json.dumps({"about": about, "figures": figures}, indent=2)
    (ROOT / "bench" / "results.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
