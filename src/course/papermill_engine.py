"""papermill's engine, with fewer saves: twice a cell, as papermill has it, they take about 5 s a chapter."""

import time

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

NAME = "course"
SAVE_EVERY = 3  # seconds


class CourseEngine(NBClientEngine):
    """papermill's engine with fewer saves."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, *args: object, **options: object) -> object:
        """Execute the notebook; save it every few seconds, and at the end."""
        save, last = nb_man.save, time.monotonic()

        def save_sometimes(**options: object) -> None:
            nonlocal last
            if time.monotonic() - last > SAVE_EVERY:
                save(**options)
                last = time.monotonic()

        nb_man.save = save_sometimes
        try:
            return super().execute_managed_notebook(nb_man, *args, **options)
        finally:
            nb_man.save = save  # papermill saves once more at the end, also after a failure


papermill_engines.register(NAME, CourseEngine)
