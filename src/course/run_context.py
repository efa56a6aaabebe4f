"""Tag every run of a chapter, also in the processes that it starts: the two names are in their environment."""

import os

from mlflow.tracking.context.abstract_context import RunContextProvider


class CourseRunContext(RunContextProvider):
    """The plugin that pyproject.toml registers with MLflow, which calls it whenever a run starts."""

    def in_context(self) -> bool:
        """Return whether this process belongs to a chapter."""
        return "COURSE_SESSION" in os.environ

    def tags(self) -> dict[str, str]:
        """Return the tags of a new run."""
        return {"course.chapter": os.environ["COURSE_CHAPTER"], "course.session": os.environ["COURSE_SESSION"]}
