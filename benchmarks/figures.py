"""Checks every figure of the documents against the file that holds it: `python -m benchmarks figures`.

A figure in a document is right for one of three reasons: code makes the document out of committed files, or the part
between `<!-- from FILE -->` and `<!-- end -->` repeats such a document; or a claim says which files it comes from; or
it is no measurement, and a reason is given (`benchmarks/claims.py` holds both). A number without any of them is a
failure. Links, paths and commands that the documents name are checked, too. `--write` puts the files' figures into the
documents.
"""

import csv
import dataclasses
import functools
import importlib
import importlib.util
import io
import itertools
import json
import pathlib
import re
import shlex
import shutil
import string
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator

from keras_cifar.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
_CODE = ("keras_cifar", "tuning", "export", "benchmarks", "cli.py")
# `82.27`, `.8254`, `1,406`, `1.3e-3`, `−0.54`
_NUMBER = r"(?:[-−+](?=[\d.]))?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:e[-−+]?\d+)?"
_ALONE = rf"(?<![\w.,])(?<![A-Za-z]-){_NUMBER}(?![A-Za-z]*\d)"
# In the documents every number counts; in comments of code, which explain limits and sizes, speeds and accuracies do.
_IN_DOCUMENTS = re.compile(_ALONE)
_IN_CODE = re.compile(rf"{_ALONE}(?=\s?(?:%|points?\b|times\b|x\b|images/s))|(?<![\w.])\.\d{{3,}}\b")
_INCLUDED = re.compile(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
_NO_PROSE = re.compile(r"^```.*?^```|`[^`\n]+`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of a document, and where its figures come from.

    Attributes:
        document: path below the root.
        text: from the document, with a `{}` or `{:.1f}` for each figure; where lines break does not matter.
        values: the figures, in this order.
        holds: whether the sentence is true, where it says more than its figures.
    """

    document: str
    text: str
    values: tuple = ()
    holds: bool = True

    @property
    def parts(self) -> list[tuple[str, str | None]]:
        """Each piece of text with the figure that follows it, as the document should spell it, or None."""
        values, parts = iter(self.values), []
        for literal, field, spec, _ in string.Formatter().parse(self.text):
            parts.append((literal, None if field is None else format(next(values), spec)))
        return parts

    @property
    def figures(self) -> list[str]:
        """The figures as the document should spell them."""
        return [figure for _, figure in self.parts if figure is not None]

    def find(self, text: str) -> re.Match | None:
        """The one place of the claim in a document; a group holds each figure as it stands there."""
        pattern = ""
        for literal, figure in self.parts:
            pattern += r"\s+".join(re.escape(word) for word in re.split(r"\s+", literal))
            if figure is not None:
                pattern += f"({_NUMBER})" if re.fullmatch(_NUMBER, figure) else "(.+?)"
        found = list(re.finditer(pattern, text, re.DOTALL))
        return found[0] if len(found) == 1 else None


class Reader:
    """Reads committed files for claims, and remembers which.

    Args:
        root: that the paths are relative to.
    """

    def __init__(self, root: pathlib.Path):
        self.root, self.paths = root, []

    def __call__(self, path: str):
        """What a JSON file holds, or the rows of a CSV file, with numbers for what reads as one."""
        self.paths.append(path)
        text = (self.root / path).read_text(encoding="utf-8")
        if path.endswith(".json"):
            return json.loads(text)
        rows = csv.DictReader(text.splitlines())
        return [{name: _number_or_text(value) for name, value in row.items()} for row in rows]


def _number_or_text(value):
    try:
        return float(value)
    except ValueError:
        return value


def documents(root: pathlib.Path) -> list[str]:
    """Paths of what is checked: Markdown, but for the changelog, and the code whose comments may hold figures."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "benchmarks" / "README.md"]
    for name in ("results", "docs", "export", "benchmarks/results"):
        found += sorted((root / name).rglob("*.md"))
    for name in _CODE:
        found += sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
    return [path.relative_to(root).as_posix() for path in found if path.is_file()]


def check(
    root: pathlib.Path,
    sources: Iterable[Callable[[Reader], Iterator[Claim]]],
    no_measurements: dict[str, str],
    write: bool = False,
) -> list[str]:
    """What is wrong with the documents, one line each; see `claims.py` for the arguments.

    Args:
        root: of the repository.
        sources: functions that read files and yield claims.
        no_measurements: regular expression of a text whose numbers need no file -> the reason.
        write: put the files' figures into the documents before.
    """
    made, problems = _made_documents(root, write)
    problems += _include(root, write)
    claims, unread = _read_claims(root, sources)
    if write:
        _write_claims(root, claims)
    covered, wrong = _check_claims(root, claims)
    problems += unread + wrong + _uncovered(root, made, covered, no_measurements)
    for document in documents(root):
        if document.endswith(".md"):
            problems += _dead_names(root, document) + _bad_commands(root, document)
    return problems


# Documents that code makes


def _makers(root):
    """Each document that code makes, and a function that makes it in a copy of its folder."""
    for folder in sorted({path.parent for path in (root / "results").glob("*/seed*")}):
        yield folder / "README.md", _make_report
    for path in sorted((root / "results").glob("*/export.json")):
        yield path.with_name("README.md"), _make_export_table
    for name in ("quantization", "golden", "certainty", "targets"):
        if (root / f"benchmarks/results/{name}.json").exists():
            yield root / f"benchmarks/results/{name}.md", functools.partial(_make_table, name)
    for path in sorted((root / "export/pretrained").glob("*.onnx")):
        yield path.with_suffix(".md"), _make_card


def _make_report(document):
    from keras_cifar.runs.report import find_runs, write_report

    write_report(find_runs([str(document.parent)]), document)


def _make_export_table(document):
    from benchmarks.export_results import table

    document.write_text(table(json.loads(document.with_name("export.json").read_text())), encoding="utf-8")


def _make_table(name, document):
    table = importlib.import_module(f"benchmarks.{name}").table
    document.write_text(table(json.loads(document.with_suffix(".json").read_text())), encoding="utf-8")


def _make_card(document):
    from export.card import write_card
    from export.classifier import OnnxClassifier

    path = document.with_suffix(".onnx")
    write_card(path, OnnxClassifier(path).metadata)


def _made_documents(root, write):
    """Paths of the documents that code makes, and one line for each that differs from what it makes."""
    made, problems = [], []
    for document, make in _makers(root):
        name = document.relative_to(root).as_posix()
        made.append(name)
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / document.parent.name / document.name
            shutil.copytree(document.parent, copy.parent, ignore=shutil.ignore_patterns("*.keras", "state.npz"))
            make(copy)
            new, old = copy.read_text(encoding="utf-8"), _text(document)
            if new == old:
                continue
            if write:
                for path in (copy, copy.with_name(f"{copy.stem}-ladder.png")):
                    if path.exists():
                        shutil.copyfile(path, document.with_name(path.name))
            else:
                problems.append(f"{name}:{_first_difference(old, new)} differs from what its files give")
    return made, problems


def _include(root, write):
    """Compares the parts of documents that are taken from other documents, or rewrites them."""
    problems = []
    for name in documents(root):
        text = _text(root / name)
        for found in reversed(list(_INCLUDED.finditer(text))):
            path = root / found[1]
            if not path.is_file():
                problems.append(f"{name}:{_line(text, found.start())}: {found[1]} does not exist")
            elif (new := _tables(path.read_text(encoding="utf-8"))) != found[2]:
                if write:
                    text = text[: found.start(2)] + new + text[found.end(2) :]
                    (root / name).write_text(text, encoding="utf-8")
                else:
                    line = _line(text, found.start(2)) - 1 + _first_difference(found[2], new)
                    problems.append(f"{name}:{line} differs from {found[1]}")
    return problems


def _tables(text):
    """From a document's first table up to its first picture or the next heading."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), len(lines))
    end = next((i for i in range(start, len(lines)) if lines[i].startswith(("#", "!["))), len(lines))
    return "\n".join(lines[start:end]).strip() + "\n"


# Claims


def _read_claims(root, sources):
    claims, problems = [], []
    for source in sources:
        reader = Reader(root)
        try:
            claims += [(claim, ", ".join(dict.fromkeys(reader.paths))) for claim in source(reader)]
        except FileNotFoundError:
            problems.append(f"claims.{source.__name__}: {reader.paths[-1]} does not exist")
        except (LookupError, TypeError, ValueError) as error:  # a file of another form than the claims expect
            problems.append(f"claims.{source.__name__}: {reader.paths[-1]} does not hold what it reads ({error!r})")
    return claims, problems


def _write_claims(root, claims):
    for claim, _ in claims:
        text = _text(root / claim.document)
        if found := claim.find(text):
            for group, figure in reversed(list(enumerate(claim.figures, start=1))):
                text = text[: found.start(group)] + figure + text[found.end(group) :]
            (root / claim.document).write_text(text, encoding="utf-8")


def _check_claims(root, claims):
    """Document -> the places whose figures are claimed; and one line for each that is wrong."""
    covered, problems = {}, []
    for claim, files in claims:
        text = _text(root / claim.document)
        found = claim.find(text)
        if found is None:
            problems.append(f"{claim.document}: does not say exactly once {claim.text!r}")
            continue
        for group, figure in enumerate(claim.figures, start=1):
            covered.setdefault(claim.document, []).append(found.span(group))
            if found[group] != figure:
                where = f"{claim.document}:{_line(text, found.start(group))}"
                problems.append(f"{where}: {found[group]} should be {figure} ({files})")
        if not claim.holds:
            line = _line(text, found.start())
            problems.append(f"{claim.document}:{line}: not true any more ({files}): {' '.join(found[0].split())!r}")
    return covered, problems


# Numbers that nothing covers


def _uncovered(root, made, covered, no_measurements):
    problems = []
    for name in documents(root):
        if name in made:
            continue
        text = _text(root / name)
        prose = _comments(text) if name.endswith(".py") else _prose(text)
        spans = list(covered.get(name, []))
        for pattern in no_measurements:
            spans += [found.span() for found in re.finditer(pattern, prose, re.MULTILINE)]
        for number in (_IN_CODE if name.endswith(".py") else _IN_DOCUMENTS).finditer(prose):
            if not any(start <= number.start() and number.end() <= end for start, end in spans):
                problems.append(f"{name}:{_line(text, number.start())}: no file for {number[0]}")
    return problems


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def _prose(text):
    """The Markdown with blanks for code, addresses and what repeats other documents, every character in its place."""
    for pattern in (_INCLUDED, _NO_PROSE):
        text = pattern.sub(lambda found: _blank(found[0]), text)
    return text


def _comments(text):
    """Python source with blanks for all but comments and long strings, every character in its place."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kept, done = "", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and '"""' in token.string):
            start, end = (starts[line - 1] + column for line, column in (token.start, token.end))
            kept += _blank(text[done:start]) + text[start:end]
            done = end
    return _prose(kept + _blank(text[done:]))


# Names and commands


def _dead_names(root, name):
    """Links and paths of a document that lead nowhere."""
    text, folder = _text(root / name), (root / name).parent
    names = [(m.start(), m[1], [folder]) for m in re.finditer(r"\]\(([^)#\s]+)\)", text) if "://" not in m[1]]
    for found in re.finditer(r"`([\w.-]+/[\w./-]*|\w+\.py)`", text):
        bases = [folder, root]
        if "/" not in found[1]:
            bases += {path.parent for code in _CODE for path in (root / code).rglob("*.py")}
        if "/" not in found[1] or any((base / found[1].split("/")[0]).is_dir() for base in bases):
            names.append((found.start(), found[1], bases))
    return [
        f"{name}:{_line(text, start)}: {path} does not exist"
        for start, path, bases in names
        if not any((base / path).exists() for base in bases) and not re.search(r"[A-Z]{2}", pathlib.Path(path).stem)
    ]


def _bad_commands(root, name):
    """Commands of a document that the command line would not take, and options it does not know."""
    import cli

    text, problems = _text(root / name), []
    parser = cli._parser()
    commands = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    options = {option for command in commands.values() for option in command._option_string_actions}
    for path in (root / "benchmarks").glob("*.py"):
        options |= set(re.findall(r'add_argument\("(--[a-z-]+)"', _text(path)))
    for found in re.finditer(r"(?:python cli\.py|keras-cifar|python -m keras_cifar) +([a-z][^#;`\n]*)", text):
        words = shlex.split(found[1])
        try:
            if words[1:] or words[0] not in commands:  # a sentence may name a command alone
                parser.parse_args(words)
        except InputError:
            problems.append(f"{name}:{_line(text, found.start())}: cli.py does not take {found[1].strip()!r}")
    for found in re.finditer(r"`(--[a-z][\w-]*)[^`]*`", text):
        if found[1] not in options:
            problems.append(f"{name}:{_line(text, found.start())}: no command has {found[1]}")
    for found in re.finditer(r"python -m (benchmarks\.[a-z]\w*)", text):
        if importlib.util.find_spec(found[1]) is None:
            problems.append(f"{name}:{_line(text, found.start())}: there is no module {found[1]}")
    return problems


def _text(path):
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _line(text, position):
    return text.count("\n", 0, position) + 1


def _first_difference(old, new):
    """The line, from 1, at which two texts part."""
    pairs = enumerate(itertools.zip_longest(old.splitlines(), new.splitlines()), start=1)
    return next((line for line, (one, other) in pairs if one != other), 1)


def main(write: bool = False) -> int:
    """Checks the documents of this repository; returns the exit code, 1 where something is wrong."""
    from benchmarks.claims import NO_MEASUREMENTS, SOURCES

    problems = check(ROOT, SOURCES, NO_MEASUREMENTS, write)
    print("\n".join(problems) if problems else "every figure of the documents is the one of its file")
    return int(bool(problems))
