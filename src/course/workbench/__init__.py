"""PostgreSQL, the MLflow server and JupyterLab together on this machine, without Docker: `course workbench`.

`local` starts and stops them, `postgres` runs the database's own programs, `backup` and `learners` also work on the
workbench in containers.
"""

from course.workbench.local import Workbench, folder, start, start_workbench

__all__ = ["Workbench", "folder", "start", "start_workbench"]
