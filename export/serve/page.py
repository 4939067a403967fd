"""The files of the page, read once; their names are the only ones that are answered."""

import functools
import mimetypes
import pathlib

from export.serve.answers import Refused

STATIC = pathlib.Path(__file__).parent.parent / "web" / "static"
# Name in the address -> file. The page of a folder for a static host has the same files next to each other.
SHARED = ("page.css", "page.js", "show.js", "pixels.js", "icon.svg")
_FILES = {"": "index.html", "openapi.json": "openapi.json", "engine.js": "server-engine.js"} | {n: n for n in SHARED}
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@functools.cache
def page_file(name: str) -> tuple[bytes, str]:
    """Content and media type.

    Raises:
        Refused: with 404, it is no file of the page.
    """
    if name not in _FILES:
        raise Refused(404, "Expected a file of the page, but got another name; open `/`.")
    path = STATIC / _FILES[name]
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.read_bytes(), kind
