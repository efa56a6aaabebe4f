"""What the pipelines share: steps as child runs, errors that name the step, and the lock of a run on its work."""

import mlflow
import pytest
from messages import assert_on_page
from pipeline_processes import found

from pystock import pipeline, processes
from pystock.pipeline import PipelineError


@pytest.mark.parametrize("error", [ValueError("no rows:\nload more"), PipelineError("no rows:\nload more")])
def test_a_failing_step_fails_the_parent_which_names_it(tracked, error):
    def job():
        with pipeline.run("steps", "main", {"market": "sp500"}) as step:
            with step("first"):
                pipeline.end_step("done", "three rows")
            with step("second"):
                raise error

    with pytest.raises(SystemExit, match=r"^steps, main: no rows:\nload more$"):
        job()
    parent, first, second = found("tags.market = 'sp500'")
    assert [each.info.status for each in (parent, first, second)] == ["FAILED", "FINISHED", "FAILED"]
    assert (parent.data.tags["failed_step"], parent.data.tags["failed_because"]) == ("second", "no rows:")


def test_an_error_of_the_programmer_shows_where_it_happened(tracked):
    with pytest.raises(ZeroDivisionError), pipeline.run("steps", "main", {}) as step, step("first"):
        1 / 0  # noqa: B018
    parent, first = found()
    assert (parent.info.status, first.info.status) == ("FAILED", "FAILED")
    assert parent.data.tags["failed_because"] == "division by zero"


def test_a_run_of_another_machine_is_not_taken_for_dead(tracked):
    name, client = "elsewhere", mlflow.MlflowClient()
    tags = {"claim": name, "process": "attic 1700000000|1|1700000000", "ticket": "1"}
    other = client.create_run("0", tags=tags).info.run_id
    refusal = rf"the run {other} on attic has been working on .* end it with .*set_terminated"
    with pytest.raises(SystemExit, match=refusal) as caught, pipeline.run("a-pipeline", "main", {}, claim=name):
        raise AssertionError("two at once")
    assert_on_page("has been working on … since", str(caught.value))
    client.set_terminated(other, "KILLED")
    with pipeline.run("a-pipeline", "main", {}, claim=name):
        pass


def test_a_run_may_go_from_one_work_to_another(tracked):
    name = "both"
    with pipeline.run("a-pipeline", "main", {}, claim=name) as step, step("inner") as inner:
        pipeline.claim_work(f"{name}, first")
        pipeline.claim_work(f"{name}, second")
        tags = mlflow.get_run(inner.info.run_id).data.tags
    assert (tags["claim"], tags["ticket"]) == (f"{name}, second", "1") and not processes.is_over(tags["process"])
