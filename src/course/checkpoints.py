"""A latecomer's start: put the embedded store into the state of someone who has finished all earlier chapters."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from course import store
from course.chapters import Chapter, before
from course.errors import CourseError
from course.paths import kept_name, root, state
from course.runner import run, state_folder


def fingerprint(chapter: Chapter) -> str:
    """What a checkpoint depends on: the chapters before it, the packages, the data, pystock."""
    files = [other.source for other in before(chapter)] + [root() / "requirements.lock"]
    for folder, pattern in (("data", "*.csv"), ("src/pystock", "*.py"), ("projects", "*/*")):
        files += sorted(path for path in (root() / folder).glob(pattern) if path.is_file())
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def saved(chapter: Chapter) -> Path:
    """Where the checkpoint of a chapter is cached."""
    return state() / "checkpoints" / f"{chapter.number}-{fingerprint(chapter)}"


def make(chapter: Chapter) -> Path:
    """The cached checkpoint; where there is none, the earlier chapters are run into a store of their own first."""
    target = saved(chapter)
    if target.exists():
        return target
    earlier = before(chapter)
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{chapter.number}-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as folder:
        made = Path(folder) / "store"
        if earlier:
            store.copy(make(earlier[-1]), made)
            with state_folder(Path(folder)):
                if run(earlier[-1:])[-1].failure:
                    raise CourseError(
                        f"The checkpoint of chapter {chapter.number} needs the chapters before it; see above."
                    )
        else:
            store.ensure(made)
        store.copy(made, target)
    return target


def restore(chapter: Chapter, force: bool = False) -> Path | None:
    """Make the embedded store the chapter's checkpoint. Returns where the store that was there is kept, if there was one.

    Raises CourseError where the store holds runs already, unless `force`.
    """
    current = store.folder()
    if os.environ.get("COURSE_TRACKING_URI"):
        raise CourseError(
            "COURSE_TRACKING_URI is set, and a checkpoint changes the embedded store alone: unset it first."
        )
    if (count := store.runs(current)) and not force:
        raise CourseError(
            f"The embedded store holds {count} run{'s' if count > 1 else ''}, and a checkpoint takes its place: add "
            "--force to move it aside and go on."
        )
    checkpoint = make(chapter)
    kept = set_aside()
    store.copy(checkpoint, current)
    return kept


def set_aside() -> Path | None:
    """Move the embedded store to a free name beside it, so that it can be moved back. None where there is no store."""
    current = store.folder()
    if not current.exists():
        return None
    kept = kept_name(current)
    current.rename(kept)
    return kept
