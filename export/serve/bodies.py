"""The bodies of requests: read within limits of size, time and memory; and the files that a form holds."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from email.message import Message

from starlette.requests import Request

from export.serve.answers import Refused, busy
from export.serve.settings import ServeSettings

_BODIES_HELD = 16
_MAX_PART_HEADERS = 8192


class BodyReader:
    """Reads bodies; all that are held at a time have a limit together.

    Args:
        settings: see `ServeSettings`.
    """

    def __init__(self, settings: ServeSettings):
        self._limit, self._seconds = settings.body_bytes, settings.timeout
        self._held, self._most = 0, _BODIES_HELD * settings.body_bytes

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body, whose memory counts until the block ends.

        Raises:
            Refused: too large, too slow, compressed, or too much is held already.
        """
        self._check_headers(request)
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._collect(request, parts)
            except TimeoutError as error:
                raise Refused(
                    408, f"Expected the whole body within {self._seconds:g} s, but it has not come; send it faster."
                ) from error
            yield b"".join(parts)
        finally:
            self._held -= sum(map(len, parts))

    def _check_headers(self, request):
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "Expected a body that is not compressed, but it has a Content-Encoding; leave it out.")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()

    def _too_large(self):
        mib = self._limit / 2**20
        return Refused(413, f"Expected a body of at most {mib:g} MiB, but it is larger; send less at once.")

    async def _collect(self, request, parts):
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            if self._held + len(part) > self._most:
                raise busy("the bodies of other requests fill its memory")
            self._held += len(part)
            parts.append(part)


def files_of(content_type: str, body: bytes) -> list[tuple[str | None, bytes]] | None:
    """The files of a multipart body, RFC 7578: name or None, and content; None of a body that is one image itself.

    Fields that are no files, such as a form's buttons, are left out.

    Raises:
        Refused: with 400, the body is not what its content type says.
    """
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        return None
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not re.fullmatch(r"[\x20-\x7e]{1,200}", boundary):
        raise _damaged("it names no boundary")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if not parts or not parts[-1].startswith(b"--"):
        raise _damaged("its end is missing")
    return [(name, content) for name, content in map(_part, parts[:-1]) if name is not None]


def _part(part):
    """The file name, None of a field that is no file, and the content of one part."""
    head, end, content = part.partition(b"\r\n\r\n")
    if not end or len(head) > _MAX_PART_HEADERS or not head.startswith(b"\r\n"):
        raise _damaged("a part has no headers")
    headers = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            headers["content-disposition"] = value.strip()
    try:
        return headers.get_filename(), content
    except ValueError as error:  # of a character set that does not exist, or does not fit
        raise _damaged("the name of a file cannot be decoded") from error


def _damaged(why):
    return Refused(400, f"Expected files as multipart/form-data, but {why}; send them with a client that makes it.")
