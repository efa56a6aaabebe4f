"""The one exception of the machinery."""


class CourseError(Exception):
    """A sentence for the reader: what is wrong, why, how to fix it. Shown without a traceback, also in a notebook."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of printing the frames
        return [f"{type(self).__name__}: {self}"]
