"""A latecomer's start: put the embedded store into the state of someone who has finished all earlier chapters."""

import os
import shutil
from pathlib import Path

from course import store
from course.chapters import Chapter, before
from course.errors import CourseError
from course.execute import fingerprint, run_chapter, state_folder
from course.paths import kept_name, state


def saved(chapter: Chapter) -> Path:
    """Return where the checkpoint of a chapter is cached."""
    return state() / "checkpoints" / f"{chapter.number}-{fingerprint(*before(chapter))}"


def make(chapter: Chapter) -> Path:
    """Return the cached checkpoint; if there is none, run the earlier chapters into a store of their own first."""
    target = saved(chapter)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = store.scratch(target.parent / chapter.number)
    try:
        if earlier := before(chapter):
            store.copy(make(last := earlier[-1]), folder / "store")
            with state_folder(folder):
                result = run_chapter(last)
            if result.failure:
                kept = shutil.copy(result.executed, target.parent)
                raise CourseError(
                    f"There is no checkpoint of chapter {chapter.number}, because chapter {last.number} failed in "
                    f"{result.failure}. The executed copy is {kept}"
                )
        store.ensure(folder / "store")  # of the first chapter: an empty one
        store.copy(folder / "store", target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for old in target.parent.glob(f"{chapter.number}-*"):
        if old != target and ".new-" not in old.name:
            shutil.rmtree(old, ignore_errors=True)
    return target


def restore(chapter: Chapter, force: bool = False) -> Path | None:
    """Replace the embedded store, and return where the old one is kept. Raises CourseError if it holds runs."""
    if os.environ.get("COURSE_TRACKING_URI"):
        raise CourseError("COURSE_TRACKING_URI names neither a server nor the embedded store: unset it first.")
    if (count := store.runs(store.folder())) and not force:
        runs = f"{count} run{'s' if count > 1 else ''}"
        fix = "add --force to move yours aside first"
        raise CourseError(f"The embedded store holds {runs}, and a checkpoint replaces the store: {fix}.")
    checkpoint = make(chapter)
    kept = set_aside()
    store.copy(checkpoint, store.folder())
    return kept


def set_aside() -> Path | None:
    """Move the embedded store to a free name next to it, and return that name; None if there is no store."""
    current = store.folder()
    return current.rename(kept_name(current)) if current.exists() else None
