"""The base of pystock's exceptions, and how to pass over or quote the error of the system or a library."""

from collections.abc import Iterator
from contextlib import contextmanager


class PystockError(Exception):
    """Base class of pystock's errors. The message says what is wrong, with the value, why, and how to fix it."""


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Pass over an MlflowException with one of these error codes."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", None) not in codes:
            raise


def first_line(error: object, most: int = 200) -> str:
    """Return the first line of an error's text, cut to `most` characters; the class name if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def reason(error: Exception) -> str:
    """Return why the system or a library refused, as a part of a sentence."""
    return getattr(error, "strerror", None) or first_line(error)
