"""A class of 30 at once on the workbench, and two learners who run the chapters at once."""

import re
import subprocess
import sys
import time

import pytest
from chapter_runs import ONE_THREAD
from class_accounts import accounts_in, as_learner, run_learners, variables
from fake_course import COURSE, clean_environment
from load_of_30 import LEARNERS, PARAMETERS, STEPS, measure, memory_of
from mlflow import MlflowClient, MlflowException

from course.chapters import all_chapters
from course.workbench import local as workbench

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the workbench needs Linux or macOS")


def test_a_class_of_30_at_once():
    """No request fails, and every run that a learner was told is finished is there, complete."""
    bench = workbench.start_workbench()
    try:
        figures = measure(bench)
        print("\n".join(f"{name:40} {value}" for name, value in figures.items()))
        assert figures["failed requests"] == []
        assert figures["metrics acknowledged"] == figures["metrics found"] == LEARNERS * STEPS
        assert figures["runs acknowledged"] == figures["runs found complete"] == LEARNERS
        assert PARAMETERS == 10 and bench.running()
    finally:
        bench.discard()


def test_two_learners_run_the_chapters_at_once(tmp_path):
    """Each in a workspace of its own on one server with authentication, and neither sees nor can change the other's."""
    bench = workbench.start_workbench(auth=True)
    try:
        user, password = workbench.admin(bench.folder)
        names = tmp_path / "names.txt"
        names.write_text("ada\nbob\n")
        admin = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        done = run_learners(names, COURSE_TRACKING_URI=bench.url, **admin)
        assert done.returncode == 0, done.stderr
        accounts = accounts_in(tmp_path / "names.txt-accounts")
        begun, running = time.monotonic(), []
        for account in accounts:
            environment = clean_environment(
                COURSE_STATE=tmp_path / account["learner"], **ONE_THREAD, **variables(account)
            )
            with open(tmp_path / f"{account['learner']}.log", "w") as log:
                command = [COURSE, "run", "01-03", "--timeout", "300"]
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        codes = [process.wait(timeout=900) for process in running]
        outputs = [(tmp_path / f"{account['learner']}.log").read_text() for account in accounts]
        print(f"both: {time.monotonic() - begun:.0f} s; memory, MiB: {memory_of(bench.folder)}", *outputs, sep="\n")
        assert codes == [0, 0]
        for output in outputs:
            for chapter in all_chapters()[:3]:
                assert re.search(rf"^{chapter.name} +passed", output, re.MULTILINE), output
        seen = {}
        for account in accounts:
            with as_learner(account):
                client = MlflowClient(bench.url)
                experiments = client.search_experiments()
                runs = client.search_runs([one.experiment_id for one in experiments], max_results=5000)
                assert runs and {run.info.status for run in runs} == {"FINISHED"}
                models = client.search_registered_models()
                seen[account["learner"]] = (
                    {(run.info.experiment_id, run.info.run_id) for run in runs},
                    {model.name for model in models},
                )
        assert not seen["ada"][0] & seen["bob"][0]
        assert len(seen["ada"][0]) == len(seen["bob"][0]) and seen["ada"][1] == seen["bob"][1]
        for account, other in ((accounts[0], "bob"), (accounts[1], "ada")):
            experiment, run = min(seen[other][0])
            for workspace in ("ada", "bob"):
                with as_learner(account, MLFLOW_WORKSPACE=workspace):
                    client = MlflowClient(bench.url)
                    assert client.search_runs([experiment]) == []
                    if workspace == other:
                        assert client.search_experiments() == [] and client.search_registered_models() == []
                    for attempt in (
                        lambda client: client.get_run(run),  # noqa: B023
                        lambda client: client.set_tag(run, "mine", "now"),  # noqa: B023
                        lambda client: client.delete_run(run),  # noqa: B023
                        lambda client: client.delete_experiment(experiment),  # noqa: B023
                    ):
                        with pytest.raises(MlflowException, match="403|Permission denied"):
                            attempt(client)
    finally:
        bench.discard()
