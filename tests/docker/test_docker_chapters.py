"""All chapters in the jupyter container of a workbench of their own: they take long, and run beside the other files."""

import re

import pytest
from docker_workbench import Workbench, require_docker
from fake_course import CHECKOUT

pytestmark = pytest.mark.docker


def test_the_chapters_run_in_the_jupyter_container(tmp_path):
    require_docker()
    bench = Workbench("chapters", tmp_path)
    chapters = sorted(path.stem for path in (CHECKOUT / "chapters").glob("[0-9][0-9]_*.md"))
    try:
        bench.up("--build", seconds=1500)
        done = bench.run("jupyter", "course", "run", seconds=4500)
        assert re.findall(r"^(\d\d_\w+) +passed ", done.stdout, re.MULTILINE) == chapters
        experiments = bench.python("import mlflow; print([e.name for e in mlflow.MlflowClient().search_experiments()])")
        assert "stockpred" in experiments  # on the server, not in the embedded store
        assert bench.run("jupyter", "sh", "-c", "ls .course/store", check=False).returncode != 0
    finally:
        bench.remove()
