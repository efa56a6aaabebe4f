"""A class of 30 at once on the workbench, and two learners who run the chapters at once."""

import re
import subprocess
import sys

import pytest
from chapter_runs import ONE_THREAD
from class_accounts import accounts_in, as_learner, run_learners, variables
from fake_course import COURSE, clean_environment
from load_of_30 import LEARNERS, STEPS, measure
from mlflow import MlflowClient

from course.chapters import select
from course.workbench import local as workbench

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the workbench needs Linux or macOS")


def test_a_class_of_30_at_once():
    """No request fails, and every run that a learner was told is finished is there, complete."""
    bench = workbench.start_workbench()
    try:
        figures = measure(bench)
        assert figures["failed requests"] == []
        assert figures["metrics acknowledged"] == figures["metrics found"] == LEARNERS * STEPS
        assert figures["runs acknowledged"] == figures["runs found complete"] == LEARNERS and bench.running()
    finally:
        bench.discard()


def test_two_learners_run_the_chapters_at_once(tmp_path):
    """Each in a workspace of its own on one server with authentication, and neither sees the other's."""
    chapters = [chapter.number for chapter in select("01-05")]
    bench = workbench.start_workbench(auth=True)
    try:
        user, password = workbench.admin(bench.folder)
        names = tmp_path / "names.txt"
        names.write_text("ada\nbob\n")
        admin = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        done = run_learners(names, COURSE_TRACKING_URI=bench.url, **admin)
        assert done.returncode == 0, done.stderr
        accounts = accounts_in(tmp_path / "names.txt-accounts")
        running = []
        for account in accounts:
            state = tmp_path / account["learner"]
            environment = clean_environment(COURSE_STATE=state, **ONE_THREAD, **variables(account))
            with open(state.with_suffix(".log"), "w") as log:
                command = [COURSE, "run", "01-05", "--timeout", "300"]
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        codes = [process.wait(timeout=900) for process in running]
        outputs = [(tmp_path / f"{account['learner']}.log").read_text() for account in accounts]
        assert codes == [0, 0], outputs
        assert [re.findall(r"(?m)^(\d\d)_\w+ +passed", output) for output in outputs] == [chapters, chapters], outputs
        seen = []
        for account in accounts:  # that neither can change the other's: test_course_learners.py
            with as_learner(account):
                client = MlflowClient(bench.url)
                experiments = [one.experiment_id for one in client.search_experiments()]
                runs = client.search_runs(experiments, max_results=5000)
                assert runs and {run.info.status for run in runs} == {"FINISHED"}
                seen.append(({run.info.run_id for run in runs}, {m.name for m in client.search_registered_models()}))
        (hers, her_models), (his, his_models) = seen
        assert not hers & his and len(hers) == len(his) and her_models == his_models
    finally:
        bench.discard()
