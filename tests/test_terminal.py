"""What users name is shown and never obeyed, in any encoding; files get it as it is."""

import contextlib
import csv
import io
import json
import os
import sys

import onnx
import pytest
from PIL import Image
from tqdm import tqdm

import cli
from keras_cifar.names import visible
from keras_cifar.terminal import safe_terminal

RED = "\x1b[31mred\x9b0m"
NAMES = [f"a {RED}\n\tb\r", "größe 😀 \u202eevil", os.fsdecode(b"\xff")]


class Terminal(io.TextIOWrapper):
    """A stream of an encoding, which may be a terminal."""

    def __init__(self, encoding, is_terminal=True):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="")
        self.isatty = lambda: is_terminal

    def shown(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(("name", "shown"), [
    ("cat.png", "cat.png"),
    ("größe 😀 日本", "größe 😀 日本"),
    (r"C:\new", r"C:\new"),
    (RED, r"\x1b[31mred\x9b0m"),
    ("a\r\n\tb\0", r"a\r\n\tb\x00"),
    ("\u202egnp.\u2028exe\u2066", r"\u202egnp.\u2028exe\u2066"),
])  # fmt: skip
def test_visible(name, shown):
    assert visible(name) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_whatever_is_printed_in_whatever_encoding(encoding, monkeypatch):
    streams = {name: Terminal(encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with safe_terminal():
        for name in NAMES:
            print(name)
            print(name, file=sys.stderr)
            tqdm.write(name)
            for _ in tqdm(range(2), desc=name):
                pass
        assert sys.stdout.encoding == encoding
    assert sys.stdout is streams["stdout"]
    assert streams["stdout"].shown().startswith("a \\x1b[31mred\\x9b0m\n\tb")
    for stream in streams.values():
        assert not set(stream.shown().replace("\x1b[A", "")) & set("\x1b\x9b\u202e")


def test_a_file_and_another_program_get_characters_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8", is_terminal=False))
    with safe_terminal():
        print(NAMES[0] + NAMES[1], end="")
    assert sys.stdout.shown() == NAMES[0] + NAMES[1]


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    """A classifier whose classes are named by someone who means no good."""
    classifier = onnx.load(exported["folder"] / "level4_int8.onnx")
    (stored,) = (entry for entry in classifier.metadata_props if entry.key == "class_names")
    stored.value = json.dumps([f"{i} {RED}\nü" for i in range(10)])
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(classifier, path)
    return str(path)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_predict_shows_names_literally(model, encoding, is_terminal, tmp_path, monkeypatch):
    for name in NAMES:
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"{name}.png")
    shown = {}
    for form in ("table", "json", "csv"):
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, Terminal(encoding, is_terminal))
            assert cli.main(["predict", model, str(tmp_path), "--format", form]) == 0
            shown[form] = sys.stdout.shown()
            assert cli.main(["predict", f"{RED}\nü.onnx", str(tmp_path)]) == 2
            error = sys.stderr.shown()
            assert error.count("\n") == 1 and "\\nü.onnx does" in error.replace("\\xfc", "ü") and "\x1b" not in error
    assert len(shown["table"].splitlines()) == len(NAMES) and "\x1b" not in shown["table"]
    assert {row["classes"][0]["name"][1:] for row in json.loads(shown["json"])} == {f" {RED}\nü"}
    if is_terminal:
        assert "\x1b" not in shown["csv"]
    elif encoding == "utf-8":
        rows = list(csv.DictReader(io.StringIO(shown["csv"], newline="")))
        assert len(rows) == len(NAMES) and {row["class_1"][1:] for row in rows} == {f" {RED}\nü"}
        assert any(row["path"].endswith(f"{NAMES[0]}.png") for row in rows)


def test_predictions_are_written_in_utf_8(model, tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "größe.png")
    output = tmp_path / "p.csv"
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["predict", model, str(tmp_path), "--format", "csv", "--output", str(output)]) == 0
    assert "größe.png" in output.read_text(encoding="utf-8")
