"""onnxruntime-web, which runs a model in a browser: taken from npm's registry, checked, and kept in the cache.

None of its files is part of this package. It is Microsoft's, under the MIT licence.
"""

import base64
import hashlib
import io
import os
import pathlib
import tarfile
import urllib.request
from collections.abc import Callable

from keras_cifar.cache import cache_dir
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path

VERSION = "1.30.0"
# Name -> SHA-256.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
# What the registry publishes for the archive of this version.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_REGISTRY = "https://registry.npmjs.org"
_MAX_BYTES = 200 * 2**20
_SECONDS = 120

LICENCE = """onnxruntime-web, https://www.npmjs.com/package/onnxruntime-web

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def runtime_files(source: str | None = None, say: Callable[[str], None] = print) -> dict[str, bytes]:
    """The content of each of `FILES`, as its SHA-256 says.

    Args:
        source: a folder that holds them (`node_modules/onnxruntime-web`, or its `dist`), or the archive that
            `npm pack onnxruntime-web@1.30.0` makes; None for the cache, or else npm's registry.
        say: told before something is fetched.

    Raises:
        InputError: they are not there, are of another version, or cannot be fetched.
    """
    if source is not None:
        path = pathlib.Path(source)
        return _checked(_of_folder(path) if path.is_dir() else _of_archive(_read(path), source), source)
    kept = cache_dir() / f"onnxruntime-web-{VERSION}"
    if all((kept / name).is_file() for name in FILES):
        return _checked(_of_folder(kept), kept)
    registry = os.environ.get("npm_config_registry") or _REGISTRY  # noqa: SIM112 - npm's own name for it
    address = f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    say(f"Fetching {address}")
    found = _checked(_of_archive(_fetch(address), address), address)
    for name, content in found.items():
        with atomic_path(kept / name) as partial:
            partial.write_bytes(content)
    return found


def _of_folder(folder):
    found = {}
    for name in FILES:
        places = [folder / name, folder / "dist" / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(f"Expected {name} in {folder} or its dist, but it is not there; {_INSTEAD}")
        found[name] = path.read_bytes()
    return found


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"Expected onnxruntime-web in {path}, but it cannot be read ({error.strerror}); {_INSTEAD}"
        ) from error


def _of_archive(content, where):
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/dist/")
                if name in FILES and member.isfile() and member.size < _MAX_BYTES:
                    found[name] = archive.extractfile(member).read()  # type: ignore[union-attr] # it is a file
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"Expected an archive of onnxruntime-web in {where}, but it is damaged; {_INSTEAD}") from error
    for name in FILES:
        if name not in found:
            raise InputError(f"Expected {name} in {where}, but it is not there; {_INSTEAD}")
    return found


def _checked(found, where):
    for name, digest in FILES.items():
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise InputError(
                f"Expected {name} of onnxruntime-web {VERSION} in {where}, but it is another version or damaged; "
                f"{_INSTEAD}"
            )
    return found


def _fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            content = answer.read(_MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected to fetch {address}, but: {error}; {_INSTEAD}") from error
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != INTEGRITY:
        raise InputError(f"Expected the published archive from {address}, but it has another content; {_INSTEAD}")
    return content


_INSTEAD = (
    f"run `npm pack onnxruntime-web@{VERSION}` where npm's registry can be reached, and pass its file to --ort-web."
)
