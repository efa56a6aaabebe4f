"""The machinery that runs the course. A notebook uses seven names of it, those in _WHERE."""

import importlib

_WHERE = {
    "begin": "course.session",
    "check": "course.checks",
    "start_accounts_server": "course.servers",
    "start_server": "course.servers",
    "start_workbench": "course.workbench",
    "study_storage": "course.store",
    "CourseError": "course.errors",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    # On first use, because MLflow imports this package for its plugin `course.run_context`, also in the process that
    # lists a model's requirements: what is imported here would count as a package that every model needs.
    if name not in _WHERE:
        raise AttributeError(f"module 'course' has no attribute {name!r}: it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_WHERE[name]), name)
