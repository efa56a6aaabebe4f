"""API keys of the inference API: a file with one line a key, `NAME SHA256`, which is read again while the service runs.

A key is 32 random bytes, and the file holds its plain SHA-256. A slow hash with salt, as passwords need, would guard
nothing here, where there is nothing to guess, and would cost its time in every request.
"""

import hashlib
import hmac
import logging
import re
import secrets
import threading
from pathlib import Path

from pystock.runs import reason

log = logging.getLogger("pystock.api")
LOOK_SECONDS = 2
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeysError(ValueError):
    """What is wrong with keys, as a part of a sentence. It quotes no line, which may hold a key by mistake."""


def new_key() -> str:
    """A key: 43 letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(32)


def digest(key: bytes) -> str:
    """What the file holds of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


def read_keys(file: Path) -> dict[str, str]:
    """The digests by the names of their clients; KeysError for a file that cannot be read, or whose form is broken."""
    try:
        lines = file.read_bytes().decode("ascii", "replace").splitlines()
    except OSError as error:
        raise KeysError(f"the file cannot be read ({reason(error)})") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, code = line.strip().partition(" ")
        if not line.strip():
            continue
        if not NAME.fullmatch(name) or not _DIGEST.fullmatch(code):
            raise KeysError(f"line {number} is no name, a space and the 64 hexadecimal digits of a SHA-256")
        if name in found:
            raise KeysError(f"line {number} has the name {name} a second time")
        if code in found.values():
            raise KeysError(f"line {number} has the key of another name")
        found[name] = code
    return found


class Keys:
    """The keys of a file, as it was when it was last whole. A thread looks at it every LOOK_SECONDS."""

    def __init__(self, file: Path):
        self._file, self._known, self._error = file, {}, None
        self._ended = threading.Event()
        self.look()

    def start(self) -> None:
        threading.Thread(target=self._run, name="keys", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def ready(self) -> dict:
        """What GET /ready says of them."""
        return {"clients": len(self._known), "error": self._error}

    def client(self, authorization: bytes) -> str | None:
        """The name of the key in this header; None for one that is not known, or none.

        It takes as long whichever key comes closest, so that time tells nothing about them.
        """
        scheme, _, key = authorization.partition(b" ")
        given, found = digest(key.strip()), None
        for name, code in self._known.items():
            if hmac.compare_digest(code, given):
                found = name
        return found if scheme.lower() == b"bearer" and key.strip() else None

    def look(self) -> None:
        """Read the file; one that is not whole changes no key."""
        try:
            known, error = read_keys(self._file), None
        except KeysError as wrong:
            known, error = self._known, str(wrong)
        if known != self._known:
            log.info("keys read", extra={"clients": list(known)})
        if error and error != self._error:
            log.error("keys not read", extra={"reason": error, "clients": list(known)})
        elif self._error and not error:
            log.info("keys whole again", extra={"clients": list(known)})
        self._known, self._error = known, error

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()
