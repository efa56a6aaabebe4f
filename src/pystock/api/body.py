"""Read the body of a request, within limits."""

import re

from fastapi import Request

from pystock.api.schema import Refused

_JSON = re.compile(r'application/json(\s*;\s*charset\s*=\s*"?utf-?8"?)?', re.IGNORECASE)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the JSON of a request, undecoded.

    Raises Refused with 415 if the headers do not declare plain JSON, with 413 as soon as more than `limit` bytes are
    announced or received, and Starlette's ClientDisconnect.
    """
    kind = request.headers.get("content-type")
    if kind is None or not _JSON.fullmatch(kind):
        value = "is missing" if kind is None else f"is {kind[:60]!r}"
        raise Refused(415, f"The header Content-Type {value}: send application/json.", reason="type")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Refused(415, f"The body is encoded as {encoding[:60]!r}: send it plain.", reason="type")
    too_large = Refused(413, f"The body has more than {limit} bytes: send fewer rows a request.", reason="body")
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or int(length) > limit:  # Python parses no number of thousands of digits
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)
