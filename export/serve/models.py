"""The files that a server answers with; one that changes is swapped, one that breaks is not."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from export.classifier import Classifier, OnnxClassifier
from export.serve.answers import Refused
from export.serve.batching import CALLS, Batcher, Loaded
from export.serve.metrics import ServeMetrics
from export.serve.names import named_paths
from export.serve.settings import ServeSettings
from keras_cifar.environment import cpu_count
from keras_cifar.errors import InputError, first_line
from keras_cifar.names import visible

_POLL_SECONDS = 1.0
LOG = logging.getLogger("keras_cifar.serve")


@dataclasses.dataclass
class ServedModel:
    """A file and the classifier that was last loaded from it.

    Attributes:
        name: the stem of the file.
        path: of the file.
        loaded: its classifiers; replaced as a whole when the file changes.
        batcher: what its requests share.
        signature: what identifies the file's content on the disk, of the last try to load it.
    """

    name: str
    path: pathlib.Path
    loaded: Loaded
    batcher: Batcher
    signature: Any

    @property
    def classifier(self) -> Classifier:
        """What says the classes, the side and whatever else belongs to the file."""
        return self.loaded.alone


class Models:
    """The models of one server, by name.

    Args:
        files: that `export` wrote; none for the classifier of the package.
        settings: see `ServeSettings`.
        metrics: of the server.
    """

    def __init__(self, files: Sequence[str], settings: ServeSettings, metrics: ServeMetrics):
        self._paths = named_paths(files)
        self._settings, self._metrics = settings, metrics
        self.by_name: dict[str, ServedModel] = {}

    def load(self, say: Callable[[str], None]) -> None:
        """Loads every file, before the server listens.

        Args:
            say: gets a line for each.

        Raises:
            InputError: one cannot be loaded, or fails its self check.
        """
        for name, path in self._paths.items():
            signature = _signature(path)
            loaded = self._open(path)
            self.by_name[name] = ServedModel(
                name, path, loaded, Batcher(name, self._settings, self._metrics), signature
            )
            self._metrics.loads.labels(name).inc()
            self._metrics.failures.labels(name)
            self._metrics.broken.labels(name).set(0)
            say(_summary(name, loaded.alone))

    def _open(self, path):
        """Classifiers that proved themselves, or carry nothing to prove themselves with."""
        provider, threads = self._settings.provider, self._settings.threads
        alone = _proven(OnnxClassifier(path, provider, threads))
        if threads:
            return Loaded(alone, alone)
        return Loaded(alone, _proven(OnnxClassifier(alone.model_bytes(), provider, max(1, cpu_count() // CALLS))))

    def find(self, name: str | None) -> ServedModel:
        """A model by its name, or the first one.

        Raises:
            Refused: with 404.
        """
        if name is None:
            return next(iter(self.by_name.values()))
        if name not in self.by_name:
            known = ", ".join(map(visible, self.by_name))
            raise Refused(404, f"Expected a model among {known}, but got {visible(name)[:80]}; name one of them.")
        return self.by_name[name]

    async def watch(self) -> None:
        """Loads files again that have changed and then stayed the same for a second, until it is cancelled."""
        seen = {name: model.signature for name, model in self.by_name.items()}
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for name, model in self.by_name.items():
                before, seen[name] = seen[name], await asyncio.to_thread(_signature, model.path)
                if seen[name] == before and before != model.signature:
                    await self._reload(model, before)

    async def _reload(self, model, signature):
        model.signature = signature  # also of a broken file: it is tried once
        try:
            loaded = await asyncio.to_thread(self._open, model.path)
        except Exception as error:
            self._metrics.failures.labels(model.name).inc()
            self._metrics.broken.labels(model.name).set(1)
            LOG.error("%s: the changed file is not used, the one before goes on: %s", model.name, first_line(error))
            return
        model.loaded = loaded
        self._metrics.loads.labels(model.name).inc()
        self._metrics.broken.labels(model.name).set(0)
        LOG.warning("%s: the changed file is loaded, sha256 %s", model.name, model.classifier.sha256)


def _proven(classifier):
    check = classifier.self_check()
    if check.state == "failed":
        raise InputError(f"Expected a file that proves itself, but {check.text}")
    return classifier


def _summary(name, classifier):
    about = classifier.metadata
    proof = "self check missing in this file" if about.golden is None else "self check passed"
    unsure = "" if classifier.reject_threshold is None else f", unsure below {classifier.reject_threshold:.2f}"
    size = f"{len(classifier.class_names)} classes, {classifier.side} px"
    return f"{visible(name)}: {size}, {about.precision}, view {about.view}{unsure}; {proof}"


def _signature(path):
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None
