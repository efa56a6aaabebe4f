"""A latecomer's start: put the embedded store into the state of someone who has finished all earlier chapters."""

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from course import store
from course.chapters import Chapter, before
from course.errors import CourseError
from course.execute import Result, fingerprint, run, run_chapter, state_folder
from course.paths import kept_name, state
from course.workbench import postgres


def _earlier(chapter: Chapter) -> list[Chapter]:
    """Return the chapters before this one, without those that start a workbench if PostgreSQL cannot run here."""
    left_out = "course.start_workbench(" if postgres.why_not() else None  # no later chapter reads what it logs
    return [one for one in before(chapter) if not left_out or left_out not in one.source.read_text(encoding="utf-8")]


def saved(chapter: Chapter) -> Path:
    """Return where the checkpoint of a chapter is cached."""
    return state() / "checkpoints" / f"{chapter.number}-{fingerprint(*_earlier(chapter))}"


def make(chapter: Chapter) -> Path:
    """Return the cached checkpoint; if there is none, run the earlier chapters into a store of their own first."""
    target = saved(chapter)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = store.scratch(target.parent / chapter.number)
    try:
        if earlier := _earlier(chapter):
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
    """Replace the embedded store with the chapter's checkpoint. Returns where the previous store is kept.

    Raises CourseError if the store already holds runs, unless `force`.
    """
    if store.in_use() != store.uri(store.folder()):
        raise CourseError("COURSE_TRACKING_URI names neither a server nor the embedded store: unset it first.")
    if (count := store.runs(store.folder())) and not force:
        runs = f"{count} run{'s' if count > 1 else ''}"
        fix = "add --force to move yours aside first"
        raise CourseError(f"The embedded store holds {runs}, and a checkpoint replaces the store: {fix}.")
    checkpoint = make(chapter)
    kept = set_aside(store.folder())
    store.copy(checkpoint, store.folder())
    return kept


def on_server(chapter: Chapter) -> list[Result]:
    """Run the chapters before this one on the current server, which adds their runs to those it already has."""
    earlier = _earlier(chapter)
    return run(earlier) if earlier else []


def set_aside(current: Path) -> Path | None:
    """Move an embedded store to a free name next to it, and return that name; None if there is no store."""
    if not current.exists():
        return None
    kept = kept_name(current)
    current.rename(kept)
    with suppress(sqlite3.Error):  # a damaged store is moved aside, too
        store.settle(kept, kept)
    return kept
