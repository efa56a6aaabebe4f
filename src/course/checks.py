"""`course.check`: check a learner's answer and say what to do next. It never raises."""

import contextlib
import hashlib
import os
import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from course import session, store
from course.chapters import select
from course.errors import CourseError
from course.paths import state

if TYPE_CHECKING:
    from mlflow.entities import Run

EXECUTED = "COURSE_EXECUTED"  # set while the course runs a chapter: the answers are then the solutions, nobody's own


class Wrong(Exception):
    """Raised by an exercise's test; its text tells the learner what to look at."""


def is_near(answer: Any, value: float) -> bool:
    """Return whether `answer` rounds to `value` at three decimals. Raises Wrong if it is not a number."""
    try:
        return abs(float(getattr(answer, "value", answer)) - value) < 0.0006
    except (TypeError, ValueError):
        raise Wrong(f"{answer!r} is not a number: give one such as 0.123, as a share and not in percent.") from None


def need_function(answer: Any, name: str) -> None:
    """Raise Wrong unless the answer is a function, which the exercise calls `name`."""
    if not callable(answer):
        raise Wrong(f"The answer is the function itself: answer = {name}, without parentheses.")


def run_in(experiment: str, answer: Any) -> "Run":
    """Return the run whose id is `answer`. Raises Wrong unless it is one of `experiment`."""
    import mlflow

    if not isinstance(answer, str):
        raise Wrong("Give the id of the run as text: run.info.run_id.")
    try:
        run = mlflow.get_run(answer)
    except mlflow.MlflowException:
        raise Wrong(f"The store has no run with the id {answer!r}: give run.info.run_id, not a name.") from None
    if mlflow.get_experiment(run.info.experiment_id).name != experiment:
        raise Wrong(f"That run is in another experiment: call set_experiment({experiment!r}) first.")
    return run


def newest_run(experiment: str, filter_string: str, missing: str) -> "Run":
    """Return the newest finished run of `experiment` that the filter finds. Raises Wrong(missing) if there is none."""
    import mlflow

    runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string=f"{filter_string} and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    if not runs:
        raise Wrong(missing)
    return runs[0]


def runs_by_filter(experiment: str, answer: Any) -> "list[Run]":
    """Return the runs of `experiment` that a learner's filter finds. Raises Wrong if it is not one."""
    import mlflow

    if not isinstance(answer, str) or not answer.strip():
        raise Wrong("Give the filter as text, in quotes: \"attributes.status = 'FINISHED'\".")
    try:
        runs: list[Run] = mlflow.search_runs(experiment_names=[experiment], filter_string=answer, output_format="list")
    except mlflow.MlflowException as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_PARAMETER_VALUE: ")
        raise Wrong(f"MLflow refuses the filter: {reason}") from None
    return runs


@dataclass(frozen=True)
class Exercise:
    """One exercise of a chapter, as chapters/checks/NN.py lists it. The chapter itself has its question and hint."""

    id: str
    test: Callable[..., None]  # called with the answer and the parameters of `course.begin`, raises Wrong
    wrong: Sequence[Any]  # two plausible wrong answers, which a test expects to be rejected

    @property
    def hint(self) -> str:
        """The hint in the chapter's text; empty if it has none."""
        text = select(self.id.split(".")[0])[0].source.read_text(encoding="utf-8")
        return hint_in(text.partition(f"**Exercise {self.id}**")[2].partition("```{code-cell}")[0])


def hint_in(question: str) -> str:
    """Return the text that a question's cell folds away in <details>; empty if there is none."""
    unquoted = re.sub(r"^> ?", "", question, flags=re.MULTILINE)
    folded = re.search(r"<details>\s*<summary>.*?</summary>(.*?)</details>", unquoted, re.DOTALL)
    return " ".join(folded[1].split()) if folded else ""


def exercises(number: str) -> list[Exercise]:
    """Return the exercises of a chapter. Its checks file is read each time, so a teacher may edit it."""
    file = select(number)[0].checks
    listed: list[Exercise] = runpy.run_path(str(file))["EXERCISES"] if file.exists() else []
    return listed


def evaluate(exercise: Exercise, answer: Any, parameters: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the answer is right, and the sentence that says so."""
    if answer is ...:
        return False, "not answered yet: replace the ... in the cell above, then run both cells."
    try:
        exercise.test(answer, **parameters)
    except Wrong as reason:
        return False, f"not yet. {reason}"
    except Exception as error:  # an answer of a kind that the test did not expect
        return False, f"not yet: {exercise.hint} (The check raised {type(error).__name__}: {error})"
    return True, "right."


def check(id: str, answer: Any) -> None:
    """Print whether `answer` solves the exercise, and if not, what to look at. Keep the answer for `course check`."""
    try:
        by_id = {exercise.id: exercise for exercise in exercises(id.split(".")[0])}
        if id not in by_id:
            raise CourseError(f"there is no exercise {id}; this chapter has {', '.join(by_id) or 'none'}.")
        message = evaluate(by_id[id], answer, session.parameters())[1]
        if answer is not ... and EXECUTED not in os.environ:
            file = _kept(id)
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Exception):  # an answer that can't be pickled, such as an open file, is lost
                file.write_bytes(cloudpickle.dumps((answer, session.parameters())))
    except Exception as error:
        message = f"the check did not work: {error}"
    print(f"Exercise {id}: {message}")


def _kept(id: str) -> Path:
    """Return the file with the newest answer to an exercise, of the embedded stores or of another one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    embedded = store.folder_of(uri) in [store.folder(), *store.folders()]
    other = "" if embedded else "-" + hashlib.sha256(uri.encode()).hexdigest()[:12]
    return state() / f"answers{other}" / f"{id}.pickle"


def check_kept(number: str) -> bool:
    """Check the newest answers to a chapter's exercises again, each on its store as it is now; return if all pass."""
    import mlflow

    results = []
    session.choose_store(None)
    for exercise in exercises(number):
        file = _kept(exercise.id)
        kept = cloudpickle.loads(file.read_bytes()) if file.exists() else (..., {})
        mlflow.set_tracking_uri(session.choose_store(None, select(number)[0].apart(kept[1])))
        right, message = evaluate(exercise, *kept)
        if kept[0] is ...:
            message = f"not answered yet: open work/{select(number)[0].working_copy.name}, and run its check there."
        results.append(right)
        print(f"Exercise {exercise.id}: {message}")
    print(f"{sum(results)} of {len(results)} exercises of chapter {number} pass.")
    return all(results)
