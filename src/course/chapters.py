"""The chapters that exist, in order, and how a person names them: 02, 2, 02-05."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course.errors import CourseError
from course.paths import root


@dataclass(frozen=True)
class Chapter:
    """A chapter, with the paths of its files."""

    number: str  # "01"
    name: str  # "01_first_tracked_pipeline"

    @property
    def source(self) -> Path:
        """The Markdown that its author writes."""
        return root() / "chapters" / f"{self.name}.md"

    @property
    def notebook(self) -> Path:
        """The notebook that is made from the source."""
        return root() / "notebooks" / f"{self.name}.ipynb"

    @property
    def working_copy(self) -> Path:
        """The learner's copy of the notebook."""
        return root() / "work" / f"{self.name}.ipynb"

    @property
    def checks(self) -> Path:
        """The file with the checks of its exercises."""
        return root() / "chapters" / "checks" / f"{self.number}.py"

    def built(self) -> Path:
        """Return the notebook. Raises CourseError if it was not built yet."""
        if not self.notebook.exists():
            raise CourseError(f"{self.notebook.name} is missing from notebooks/: run `make notebooks`.")
        return self.notebook

    @property
    def title(self) -> str:
        """The first heading of the source."""
        heading = re.search(r"^# (.+)$", self.source.read_text(encoding="utf-8"), re.MULTILINE)
        return heading[1] if heading else self.name

    def apart(self, parameters: Mapping[str, Any]) -> str:
        """Name the store of these parameters: those that are not the default, such as "nasdaq"; "" if all are.

        The default is the first value in the comment of the parameters cell: `market = "sp500"  # sp500 or nasdaq`.
        A parameter whose comment lists no values keeps nothing apart, and neither does one that `begin` does not get.
        """
        beginning = self.source.read_text(encoding="utf-8").partition("course.begin(")[0]
        listed = dict(re.findall(r"^(\w+) = .*# (\w+ or .+)$", beginning, re.MULTILINE))
        others = ((listed.get(name, "").split(" or ")[1:], str(value)) for name, value in parameters.items())
        return "-".join(value for values, value in others if value in values)


def all_chapters() -> list[Chapter]:
    """Return every chapter with a source, by number."""
    return [Chapter(file.stem[:2], file.stem) for file in sorted((root() / "chapters").glob("[0-9][0-9]_*.md"))]


def select(spec: str | None = None) -> list[Chapter]:
    """Return the chapters that `spec` names: None, "02" or "2", "02-05". Raises CourseError if there is no such one."""
    chapters = all_chapters()
    if not chapters:
        raise CourseError(f"There are no chapters under {root()}: set COURSE_ROOT to the course folder.")
    if spec is None:
        return chapters
    if bounds := re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", spec):
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        named = [chapter for chapter in chapters if first <= int(chapter.number) <= last]
        if named and {first, last} <= {int(chapter.number) for chapter in named}:
            return named
    existing = ", ".join(chapter.number for chapter in chapters)
    raise CourseError(f"There is no chapter {spec}: choose from {existing}, or a range such as 01-02.")


def before(chapter: Chapter) -> list[Chapter]:
    """Return the chapters that come before this one."""
    return [other for other in all_chapters() if other.number < chapter.number]
