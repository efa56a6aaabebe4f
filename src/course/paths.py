"""Where things are. COURSE_ROOT and COURSE_STATE move the checkout and the state; the tests use both."""

import os
from pathlib import Path


def root() -> Path:
    """Return the checkout: chapters/, notebooks/, work/, data/."""
    return Path(os.environ.get("COURSE_ROOT") or Path(__file__).parents[2]).resolve()


def state() -> Path:
    """Return the folder of all runtime state: the embedded store, checkpoints, executed copies, logs."""
    return Path(os.environ.get("COURSE_STATE") or root() / ".course").resolve()


def kept_name(path: Path) -> Path:
    """Return the first free name in the same folder under which the file or folder `path` can be kept."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.kept-{number}{path.suffix}")).exists():
        number += 1
    return kept
