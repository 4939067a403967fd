"""What users name comes out as it went in, whatever its characters, in every medium."""

import ast
import html
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote_to_bytes

import pytest
from conftest import ROOT
from matplotlib.cbook import is_math_text

from keras_cifar.files import read_json, write_json, write_text
from keras_cifar.names import (
    file_name,
    markdown,
    markdown_code,
    markdown_target,
    one_line,
    plot_text,
    protobuf_text,
    shorten,
    visible,
)

NASTY = (
    "plain", "two words", "a$b$", r"\$x^2_1$", r"C:\temp\new", "_under_score_", "#1", "a|b", r"a\|b", "<b>&amp;</b>",
    "`tick``", "line\nend", r"line\nend", "\r\u2028", "\x1b[31mred", "🐈", "👩\u200d🚀", "קצר",
    "\u202egnp.tac", "nul\x00", "(a) [b](c)", "100%", "'\"", "-rf", "..", "~", "x" * 300, "ß" * 200, "half\udcff\udcc3",
    "日本語", "a:b?*", "",
)  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_one_line_on_which_everything_shows(name):
    for text in (visible(name), plot_text(name), markdown(name), markdown_code(name), one_line(name)):
        assert len(text.splitlines()) <= 1
        text.encode("utf-8")
    assert not set(visible(name)) & set("\x1b\x00\n\u202e\udcff")
    assert len(plot_text(name).replace(r"\$", "$")) <= 81 and not is_math_text(plot_text(name))


@pytest.mark.parametrize("name", NASTY)
def test_markdown_renders_as_the_name(name):
    escaped = markdown(name)
    assert not re.search(r"(?<!\\)(\\\\)*[`*<>|&$#\[\]]", escaped)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == visible(name)


@pytest.mark.parametrize(("text", "span"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a``", "``` `a`` ```")])
def test_code_spans_hold_backticks(text, span):
    assert markdown_code(text) == span


@pytest.mark.parametrize("name", NASTY)
def test_link_targets_lead_to_the_file(name):
    target = markdown_target(f"{name}/curves.png")
    assert re.fullmatch(r"[\w./~%-]*", target) and html.escape(target) == target
    assert os.fsdecode(unquote_to_bytes(target)) == f"{name}/curves.png"


def test_file_names_are_short_and_differ(tmp_path):
    names = [*NASTY, *(f"folder-{name}" for name in NASTY)]
    for name in names:
        (tmp_path / file_name(name)).mkdir()  # fails on one that is there, too long, or impossible
    assert file_name("folder-a/b c") == "folder-a_b c" and len(list(tmp_path.iterdir())) == len(names)


def test_json_gives_back_every_name(tmp_path):
    values = {name: [name, {name: 1}] for name in NASTY}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps("Käse", ensure_ascii=False).encode())
    assert read_json(tmp_path / "a.json") == "Käse"


def test_text_files_take_every_name(tmp_path):
    write_text(tmp_path / "a.txt", "".join(one_line(name) + "\n" for name in NASTY))
    lines = (tmp_path / "a.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(NASTY) + 1
    assert [line for line, name in zip(lines, NASTY, strict=False) if line == name][:3] == list(NASTY[:3])
    write_text(tmp_path / "a.txt", "half\udcff")
    assert (tmp_path / "a.txt").read_bytes() == rb"half\udcff"


@pytest.mark.parametrize("name", NASTY)
def test_protobuf_text_against_protobuf(name):
    from google.protobuf import text_format
    from google.protobuf.wrappers_pb2 import BytesValue

    assert text_format.Parse(f'value: "{protobuf_text(name)}"', BytesValue()).value == os.fsencode(name)


def test_shorten_keeps_both_ends():
    assert shorten("abcdefghij", 10) == "abcdefghij" and shorten("abcdefghijk", 5) == "ab…jk"


def test_layout_of_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2], "b": [[1], [2, 3]], "c": [{"x": 1}, {"y": [1, {"z": 2}]}], "d": {}})
    text = (tmp_path / "a.json").read_text()
    assert '"a": [1, 2],' in text and '"b": [\n    [1],\n    [2, 3]\n  ]' in text and '    {"x": 1},\n' in text


def test_files_are_utf_8_in_every_locale(tmp_path):
    code = (
        "import pathlib, sys; from keras_cifar.files import *\n"
        "write_text('a.txt', 'K\\u00e4se \\u2013'); write_json('b.json', ['\\u00e4']); "
        "print(read_json('c.json') == '\\u00e4', sys.getfilesystemencoding())"
    )
    (tmp_path / "c.json").write_bytes('"ä"'.encode())
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-c", code],
                          cwd=tmp_path, env={**os.environ, **plain}, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == ["True", "ascii"], done.stderr
    assert (tmp_path / "a.txt").read_bytes() == "Käse –".encode()


def test_every_text_file_is_opened_with_its_encoding():
    """What the locale says must not decide how a file is read or written."""
    left = []
    packages = [path for name in ("keras_cifar", "tuning", "export") for path in (ROOT / name).rglob("*.py")]
    for path in [ROOT / "cli.py", *packages]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node) and "encoding" not in [k.arg for k in node.keywords]:
                left.append(f"{path.name}:{node.lineno}")
    assert not left


def _opens_text(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    if name == "open" and isinstance(call.func, ast.Name):
        mode = next((a.value for a in call.args[1:2] if isinstance(a, ast.Constant)), "r")
        return "b" not in mode
    return name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
