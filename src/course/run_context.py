"""Tags every run with the chapter and session that made it: MLflow calls this plugin whenever a run starts.

It works in each process that a chapter starts, because the two names travel in the environment.
"""

import os

from mlflow.tracking.context.abstract_context import RunContextProvider


class CourseRunContext(RunContextProvider):
    """The plugin that pyproject.toml registers with MLflow."""

    def in_context(self) -> bool:
        """Return whether this process belongs to a chapter."""
        return "COURSE_SESSION" in os.environ

    def tags(self) -> dict[str, str]:
        """Return the tags of a new run."""
        return {"course.chapter": os.environ["COURSE_CHAPTER"], "course.session": os.environ["COURSE_SESSION"]}
