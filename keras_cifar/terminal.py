"""What is printed: any text in any encoding of a terminal, which shows it and does not obey it."""

import contextlib
import os
import re
import sys
import tempfile

from keras_cifar.names import visible

_CURSOR = re.compile("(\r|\n|\x1b\\[A)*")  # how progress bars go back to their line
_IN_A_LINE = re.compile(r"[^\n\t]+")  # tabs and line ends are for whoever prints a table


@contextlib.contextmanager
def safe_terminal():
    """Within it, whatever is printed can be, in any encoding, and no terminal obeys it.

    What the encoding of stdout or stderr lacks is escaped, and on a terminal what does not show is too (see
    `keras_cifar.names.visible`); a file or another program gets that as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(_guarded(sys.stdout)), contextlib.redirect_stderr(_guarded(sys.stderr)):
        yield


@contextlib.contextmanager
def hold_stderr():
    """Within it, what is written to stderr, native libraries' too, is held back, and shown only if the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _guarded(stream):
    return _Guard(stream) if stream is not None and stream.isatty() else stream


class _Guard:
    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Writes text with what does not show escaped, but for what moves a progress bar."""
        if _CURSOR.fullmatch(text):
            return self._stream.write(text)
        start = "\r" if text.startswith("\r") else ""
        return self._stream.write(start + _escaped(text[len(start) :]))


def _escaped(text):
    return _IN_A_LINE.sub(lambda found: visible(found[0]), text)
