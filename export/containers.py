"""Files to copy for a container: a Dockerfile that serves models, and a compose file with Prometheus beside it.

The image holds this package's own source, the models and the packages that serving needs; no TensorFlow.
"""

import importlib.metadata
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

from export.layouts import TEMPLATES, write_client
from export.serve.names import named_paths
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, check_output, write_text
from keras_cifar.names import file_name

# What `serve` imports, with what these need themselves.
REQUIREMENTS = ("numpy", "onnxruntime", "pillow", "starlette", "uvicorn", "prometheus-client")
_ROOT = pathlib.Path(__file__).parent.parent
_PACKAGES = ("keras_cifar", "tuning", "export")
_SUFFIXES = (".py", ".js", ".css", ".html", ".svg", ".json", ".yaml", ".yml", ".txt")
_DOCKERFILE_ALONE = ("Dockerfile",)
_COPIED = ("compose.yaml", "prometheus.yml")


def check_docker(folder: str | None, overwrite: bool) -> None:
    """Raises InputError where a folder for a container cannot be written to."""
    if folder is None:
        return
    if pathlib.Path(folder).is_file():
        raise InputError(f"Expected a folder for --docker, but {folder} is a file; choose another.")
    dockerfile = pathlib.Path(folder) / "Dockerfile"
    check_output(dockerfile)
    if dockerfile.exists() and not overwrite:
        raise InputError(
            f"Expected {dockerfile} to be free, but it is there already; pass --overwrite, or choose another folder."
        )


def write_docker(files: Sequence[pathlib.Path], folder: str, say: Callable[[str], None] = print) -> pathlib.Path:
    """Writes Dockerfile, compose.yaml, prometheus.yml, requirements.txt, client.py, app/ and models/.

    Args:
        files: that `export` wrote; the container serves all of them.
        folder: to write into.
        say: told what was written.
    """
    root = pathlib.Path(folder)
    names = []
    for path in named_paths([str(file) for file in files]).values():
        names.append(f"/service/models/{file_name(path.stem)}.onnx")
        _copy(path, root / "models" / f"{file_name(path.stem)}.onnx")
    for source in _sources():
        _copy(source, root / "app" / source.relative_to(_ROOT))
    write_text(root / "requirements.txt", "".join(f"{line}\n" for line in requirements()))
    for name in _COPIED:
        write_text(root / name, (TEMPLATES / name).read_text(encoding="utf-8"))
    write_text(root / ".dockerignore", "*\n!requirements.txt\n!app\n!models\n**/__pycache__\n")
    write_client(root)
    dockerfile = (TEMPLATES / "Dockerfile").read_text(encoding="utf-8")
    write_text(root / "Dockerfile", dockerfile.replace("@MODELS@", json.dumps(names)))
    say(f"written to {folder}: run `docker compose up --build` there")
    return root / "Dockerfile"


def requirements() -> list[str]:
    """What the container installs, in the versions that are installed here."""
    found = []
    for name in REQUIREMENTS:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(name)  # whoever writes the files need not serve
    return found


def _sources():
    """This package's files that serving may need; the models that come with it stay behind."""
    yield _ROOT / "cli.py"
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            is_source = path.suffix in _SUFFIXES or path.name in _DOCKERFILE_ALONE
            if is_source and path.is_file() and "pretrained" not in path.parts:
                yield path


def _copy(source, target):
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)
