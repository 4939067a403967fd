"""What a server may do: where it listens, what it takes and how much of it."""

import dataclasses
import os
import pathlib

from keras_cifar.checks import Number, Text
from keras_cifar.errors import InputError

TOKEN_VARIABLE = "KERAS_CIFAR_TOKEN"
_MIN_TOKEN = 16
RULES = {
    "port": Number(0, 65_535, whole=True, example=8000),
    "batch": Number(1, 1024, whole=True, example=64),
    "batch_delay": Number(0, 1000, example=5),
    "queue": Number(1, 1_000_000, whole=True, example=1024),
    "max_body": Number(0.001, 1024, example=16),
    "max_megapixels": Number(0.001, 1000, example=36),
    "timeout": Number(0.1, 3600, example=30),
    "max_connections": Number(1, 100_000, whole=True, example=1000),
    "threads": Number(0, 1024, whole=True, example=2),
}


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """What a server may do.

    Attributes:
        host: address to listen on; the default is reached from this machine alone.
        port: 0 for any that is free.
        token: what requests must bring as `Authorization: Bearer TOKEN`; None for open to all who reach it. Health,
            the page and its scripts need none.
        batch: images that one call of the runtime gets at most.
        batch_delay: milliseconds that a call waits at most for images that are being received or decoded.
        queue: images that wait at most, for each model; what comes beyond them is answered with 503.
        max_body: of a request, in MiB. All requests together hold at most 16 times that.
        max_megapixels: of an image that is decoded whole, see `keras_cifar.data.images.decode_image`.
        timeout: seconds in which the headers of a request, and then its body, must have come, and after which a client
            that reads nothing of its answer is cut off.
        max_connections: at a time; what comes beyond them is answered with 503.
        threads: of one call of the runtime; 0 for its own choice, and half of the CPUs for each of two calls at a time.
        provider: a name in `export.runtimes.RUNTIMES`; the default is onnxruntime whose threads leave the CPU to
            others while they wait, as a server has other things to do.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    batch: int = 64
    batch_delay: float = 5
    queue: int = 1024
    max_body: float = 16
    max_megapixels: float = 36
    timeout: float = 30
    max_connections: int = 1000
    threads: int = 0
    provider: str = "onnxruntime-patient"

    def check(self) -> None:
        """Raises InputError for the first thing that makes no sense."""
        Text("127.0.0.1").check("--host", self.host)
        for name, rule in RULES.items():
            rule.check(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.token is not None and (len(self.token) < _MIN_TOKEN or not self.token.isascii()):
            raise InputError(
                f"Expected a token of at least {_MIN_TOKEN} ASCII characters, but got {len(self.token)} characters; "
                "make one with `openssl rand -hex 16`."
            )

    @property
    def body_bytes(self) -> int:
        """What a request's body may have."""
        return int(self.max_body * 2**20)

    @property
    def pixels(self) -> int:
        """What an image may have that is decoded whole."""
        return int(self.max_megapixels * 1e6)


def read_token(path: str | None) -> str | None:
    """The token in a file, or else in the environment variable KERAS_CIFAR_TOKEN; None where there is neither.

    Raises:
        InputError: the file cannot be read.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected a token in {path}, but it cannot be read ({getattr(error, 'strerror', None) or error}); name a "
            "text file with one."
        ) from error
