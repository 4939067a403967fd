"""What users name (classes, files, runs) as text for a terminal: literal, whatever its characters and the encoding."""

import contextlib
import re
import sys

# What moves the cursor or changes how a terminal shows text: control characters, the separators of lines and
# paragraphs, and what reverses the direction of writing. Tabs and line ends are for whoever prints a table.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CURSOR = re.compile("(\r|\n|\x1b\\[A)*")  # how progress bars go back to their line


def literal(text: str) -> str:
    """A name or a message as one line: what a terminal would obey instead of showing is escaped as in Python."""
    return _escaped(text).replace("\t", "\\t").replace("\n", "\\n")


def _escaped(text):
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextlib.contextmanager
def safe_terminal():
    """Within it, whatever is printed can be, in any encoding, and no terminal obeys it.

    What the encoding of stdout or stderr lacks is escaped, and on a terminal control characters are too; a file or
    another program gets those as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(_guarded(sys.stdout)), contextlib.redirect_stderr(_guarded(sys.stderr)):
        yield


def _guarded(stream):
    return _Guard(stream) if stream is not None and stream.isatty() else stream


class _Guard:
    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Writes text with its control characters escaped, but for what moves a progress bar."""
        if _CURSOR.fullmatch(text):
            return self._stream.write(text)
        start = "\r" if text.startswith("\r") else ""
        return self._stream.write(start + _escaped(text[len(start) :]))
