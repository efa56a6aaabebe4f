"""Where things are. COURSE_ROOT and COURSE_STATE move the checkout and the state; the tests use both."""

import json
import os
import sys
from pathlib import Path

from course.errors import CourseError


def root() -> Path:
    """Return the checkout: chapters/, notebooks/, work/, data/."""
    return Path(os.environ.get("COURSE_ROOT") or Path(__file__).parents[2]).resolve()


def state() -> Path:
    """Return the folder of all runtime state: the embedded store, checkpoints, executed copies, logs."""
    return (root() / (os.environ.get("COURSE_STATE") or ".course")).resolve()


def showcase() -> Path:
    """Return the state folder of the showcase, the runs that `make course` makes. The learner's runs are elsewhere."""
    return state() / "showcase"


def refuse_another_checkout() -> None:
    """Raise CourseError in a copy of the checkout whose environment was copied, too, and is still the original's."""
    for folder in [] if os.environ.get("COURSE_ROOT") else [Path.cwd(), *Path.cwd().parents]:
        if (folder / "src" / "course" / "paths.py").exists():
            if folder.resolve() != root():
                raise CourseError(
                    f"This environment runs the course in {root()}, and you are in another checkout, {folder}: run "
                    "`python3 install.py` there, then open a new terminal."
                )
            return


def left_out() -> dict[str, list[str]]:
    """Return the extras that `install.py --without` left out of this environment, each with its packages."""
    choice = Path(sys.prefix) / "course-left-out.json"
    return json.loads(choice.read_text(encoding="utf-8")) if choice.exists() else {}


def kept_name(path: Path) -> Path:
    """Return the first free name in the same folder under which the file or folder `path` can be kept."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.kept-{number}{path.suffix}")).exists():
        number += 1
    return kept
