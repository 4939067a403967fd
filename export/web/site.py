"""The page as files that classify in the browser: a folder for any static host, or one that opens from the disk."""

import base64
import gzip
import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from export.classifier import OnnxClassifier
from export.web.runtime_files import LICENCE, VERSION
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, check_output, write_json, write_text
from keras_cifar.names import file_name

STATIC = pathlib.Path(__file__).parent / "static"
# Name in the folder -> file of `STATIC`.
PAGE = {
    "page/page.css": "page.css",
    "page/page.js": "page.js",
    "page/show.js": "show.js",
    "page/pixels.js": "pixels.js",
    "page/icon.svg": "icon.svg",
    "page/engine.js": "browser-engine.js",
}
# In the order in which they need each other.
_SCRIPTS = ("pixels.js", "browser-engine.js", "show.js", "page.js")
_POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval' blob:; style-src {styles}; "
    "img-src 'self' blob: data:; media-src blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
)
_HEAD = '<meta name="color-scheme" content="light dark">'


def write_site(
    files: Sequence[pathlib.Path], folder: str, runtime: Mapping[str, bytes], say: Callable[[str], None] = print
) -> pathlib.Path:
    """Writes a folder for a static host; `index.html` comes last.

    Args:
        files: that `export` wrote; each becomes a model that the page offers, the first by default.
        folder: to write into.
        runtime: see `export.web.runtime_files.runtime_files`.
        say: told what was written.
    """
    root, models = pathlib.Path(folder), [_Model(path) for path in files]
    for model in models:
        _write_bytes(root / "models" / file_name(model.path.name), model.content)
    for name, content in runtime.items():
        _write_bytes(root / "ort" / name, content)
    write_text(root / "ort" / "LICENSE.txt", LICENCE)
    for name, source in PAGE.items():
        write_text(root / name, _text(source))
    write_json(root / "models.json", {"models": [model.about for model in models]})
    policy = _POLICY.format(scripts="'self'", styles="'self'", connect="'self'")
    write_text(root / "index.html", _with_policy(_text("index.html"), policy))
    say(
        f"written to {folder}: {_counted(models)}, onnxruntime-web {VERSION}; try it with "
        f"`python -m http.server -d {shlex.quote(str(folder))}`"
    )
    return root / "index.html"


def write_single(
    files: Sequence[pathlib.Path], path: str, runtime: Mapping[str, bytes], say: Callable[[str], None] = print
) -> pathlib.Path:
    """Writes one file with everything in it, which opens from the disk; see `write_site`."""
    models = [_Model(file) for file in files]
    inside = {model.about["file"]: model.content for model in models}
    inside |= {f"ort/{name}": content for name, content in runtime.items()}
    inside["models.json"] = json.dumps({"models": [model.about for model in models]}).encode()
    blocks = [f"<!--\n{LICENCE}-->"]
    for name, content in inside.items():
        packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        blocks.append(f'<script type="text/plain" id="{_attribute(name)}">{packed}</script>')
    blocks.append(f'<script type="module">\n{_one_script()}</script>')
    page = _with_policy(
        _text("index.html"), _POLICY.format(scripts="'unsafe-inline'", styles="'unsafe-inline'", connect="'none'")
    )
    icon = base64.b64encode(_text("icon.svg").encode()).decode()
    page = page.replace('href="page/icon.svg"', f'href="data:image/svg+xml;base64,{icon}"')
    page = _replaced(page, '<link rel="stylesheet" href="page/page.css">', f"<style>\n{_text('page.css')}</style>")
    page = _replaced(page, '<script type="module" src="page/page.js"></script>\n', "")
    page = _replaced(page, "</body>", "\n".join(blocks) + "\n</body>")
    write_text(path, page)
    size = pathlib.Path(path).stat().st_size
    say(f"written to {path} ({size / 1e6:.1f} MB): {_counted(models)}, onnxruntime-web {VERSION}; open it")
    return pathlib.Path(path)


def check_places(folder: str | None, single: str | None, overwrite: bool) -> None:
    """Raises InputError where a page cannot be written, before long work.

    Args:
        folder: see `write_site`; None for none.
        single: see `write_single`; None for none.
        overwrite: whether it may replace another page.
    """
    if folder is not None:
        if pathlib.Path(folder).is_file():
            raise InputError(f"Expected a folder for --web, but {folder} is a file; choose another.")
        check_output(pathlib.Path(folder) / "index.html")
    for path in ([pathlib.Path(folder) / "index.html"] if folder else []) + ([pathlib.Path(single)] if single else []):
        check_output(path)
        if path.exists() and not overwrite:
            raise InputError(
                f"Expected {path} to be free, but it is there already; pass --overwrite, or choose another."
            )
    if single is not None and pathlib.Path(single).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"Expected a name that ends in .html for --web-single, but got {single}; choose another.")


class _Model:
    """A file, its content and what the page is told of it."""

    def __init__(self, path: pathlib.Path):
        self.path, self.content = path, path.read_bytes()
        self.about = _description(path, len(self.content))


def _description(path: pathlib.Path, size: int) -> dict[str, Any]:
    classifier = OnnxClassifier(path)
    about = classifier.metadata
    return {
        "name": path.stem,
        "file": f"models/{file_name(path.name)}",
        "bytes": size,
        "classes": classifier.class_names,
        "side": classifier.side,
        "resize": classifier.resize,
        "precision": about.precision,
        "view": about.view,
        "temperature": about.temperature,
        "selective": classifier.selective_threshold,
        "threshold": classifier.reject_threshold,
        "backbone": about.recipe.get("backbone"),
        "level": about.level,
        "data": about.data,
        "sha256": classifier.sha256,
    }


def _write_bytes(path, content):
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def _text(name):
    return (STATIC / name).read_text(encoding="utf-8")


def _one_script():
    """The page's modules as one, without what they say to each other."""
    text = "\n".join(_text(name) for name in _SCRIPTS)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _with_policy(page, policy):
    return _replaced(page, _HEAD, f'{_HEAD}\n<meta http-equiv="Content-Security-Policy" content="{policy}">')


def _replaced(page, old, new):
    before, found, after = page.partition(old)
    if not found:
        raise ValueError(f"the page has no {old}")
    return before + new + after


def _attribute(text):
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _counted(models):
    return f"{len(models)} model{'s' if len(models) != 1 else ''}"
