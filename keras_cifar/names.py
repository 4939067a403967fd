"""What users name (classes, paths, runs), written literally into each medium; standard library only."""

import hashlib
import re
import urllib.parse
from collections.abc import Sequence

_JOINERS = "\u200c\u200d"  # invisible, but Persian and composed emoji need them
# What `str.splitlines`, and so a reader of one name a line, takes for the end of a line.
_LINE_ENDS = {ord(c): c.encode("unicode_escape").decode() for c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore within a word is one
_NOT_FOR_FILES = re.compile(r"[^\w.+=@%,~() -]")
MOST_LISTED = 5  # names in a line
_FILE_NAME_BYTES = 120  # systems allow 255, of which suffixes and partial files take some


def visible(text: object) -> str:
    r"""One line on which every character shows: control and direction marks and what is no text become `\x1b`."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in str(text))


def shorten(text: str, length: int) -> str:
    """At most `length` characters of a text, the middle left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def plot_text(text: object, length: int = 80) -> str:
    """For Matplotlib: no mathematics between dollars, no label that a legend leaves out, no endless line."""
    text = shorten(visible(text), length).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def markdown(text: object) -> str:
    """For a sentence, heading or table cell of Markdown, and so for the HTML that is made of it."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def markdown_code(text: object) -> str:
    """A code span of Markdown that holds a text with any backticks; not for a table's cell."""
    text = visible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def markdown_target(path: str) -> str:
    """A relative path with slashes as the target of a link or picture, also in HTML."""
    return urllib.parse.quote(path.encode("utf-8", "surrogateescape"))


def one_line(text: str) -> str:
    r"""For a file of one name a line: the text itself, its line ends as `\n`, and what is no text as `\udcff`."""
    return text.translate(_LINE_ENDS).encode("utf-8", "backslashreplace").decode()


def protobuf_text(text: str) -> str:
    """What stands between the quotes of a string in protobuf's text format."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(o) if 32 <= o < 127 and o not in b'"\\' else f"\\{o:03o}" for o in octets)


def file_name(text: str) -> str:
    """A file's or folder's name for a text; slashes and odd characters become underscores.

    Texts that differ in more than slashes get names that differ.
    """
    plain = text.replace("/", "_")
    name = _NOT_FOR_FILES.sub("_", plain)
    if name == plain and len(name.encode()) <= _FILE_NAME_BYTES and name.strip("."):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: _FILE_NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def few_or_count(names: Sequence[str], separator: str) -> str:
    """Names one after the other, or, of more than 5, how many they are."""
    return separator.join(map(str, names)) if len(names) <= MOST_LISTED else f"{len(names):,} names"
