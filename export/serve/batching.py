"""Requests that come close together share a call of the runtime; a bounded number waits."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

import numpy as np

from export.classifier import Classifier
from export.serve.answers import busy
from export.serve.metrics import ServeMetrics
from export.serve.settings import ServeSettings

CALLS = 2  # at a time: where one waits for a CPU that others use, the other goes on
_LITTLE = 8
_KEPT_RATES = 16
_MAX_RETRY_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The classifiers of one file.

    Attributes:
        alone: for a call that has the CPUs to itself.
        beside: for calls at the same time, each with its part of the CPUs, as threads that wait for each other in two
            calls would take turns on them.
    """

    alone: Classifier
    beside: Classifier


@dataclasses.dataclass
class _Waiting:
    """Images of one request that wait for a call."""

    loaded: Loaded
    images: np.ndarray
    outputs: tuple[str, ...]
    answer: asyncio.Future


class Batcher:
    """Collects images of many requests into calls of one classifier; lives in one event loop.

    Args:
        name: of the model, for the metrics.
        settings: see `ServeSettings`.
        metrics: gets batch sizes, seconds and the queue.
    """

    def __init__(self, name: str, settings: ServeSettings, metrics: ServeMetrics):
        self._settings, self._admitted = settings, 0
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._queued = self._in_calls = 0  # images
        self._arrived = asyncio.Event()
        self._threads = concurrent.futures.ThreadPoolExecutor(CALLS, f"model {name}")
        self._rates: collections.deque[float] = collections.deque(maxlen=_KEPT_RATES)
        self._images, self._batches = metrics.images.labels(name), metrics.batches.labels(name)
        self._running, self._waiting = metrics.running.labels(name), metrics.waiting.labels(name)

    def check_room(self, count: int = 1) -> None:
        """Raises Refused (503) where so many more images would not fit."""
        if self._admitted + count > self._settings.queue:
            raise busy(f"{self._admitted} images are waiting and {self._settings.queue} may", self._seconds_to_wait())

    def _seconds_to_wait(self):
        rate = sum(self._rates) / len(self._rates) if self._rates else 0
        return min(_MAX_RETRY_SECONDS, max(1, math.ceil(self._admitted / rate))) if rate else 1

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Within it, so many images have their place in the queue, also while they are decoded.

        Raises:
            Refused: with 503, there is none.
        """
        self.check_room(count)
        self._admitted += count
        self._waiting.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= count
            self._waiting.set(self._admitted)
            self._arrived.set()  # a call that waits for these images need not wait on

    async def predict(self, loaded: Loaded, images: np.ndarray, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Outputs for images that have their `room`.

        Args:
            loaded: to predict with; images of one call have the same.
            images: (N, side, side, 3) uint8.
            outputs: of "logits" and "probabilities".

        Returns:
            Name -> (N, C) float32.
        """
        answer = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(loaded, images, outputs, answer))
        self._queued += len(images)
        self._arrived.set()
        return await answer

    async def run(self) -> None:
        """Answers until it is cancelled."""
        free, calls = asyncio.Semaphore(CALLS), set()
        try:
            while True:
                await free.acquire()
                await self._wait_for_images()
                call = asyncio.create_task(self._call(self._take(), free))
                calls.add(call)
                call.add_done_callback(calls.discard)
        finally:
            self._threads.shutdown(wait=False)

    async def _call(self, batch, free):
        size = sum(len(one.images) for one in batch)
        loaded, is_alone = batch[0].loaded, not self._in_calls and not self._queued
        classifier = loaded.alone if is_alone else loaded.beside
        self._in_calls += size
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._compute, batch, classifier)
        except Exception as error:
            found = [error] * len(batch)
        finally:
            self._in_calls -= size
            free.release()
        _answer(batch, found)

    async def _wait_for_images(self):
        """Returns when something waits, and either no more is on its way, or a call is full, or the delay is over."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = time.monotonic() + self._settings.batch_delay / 1000
        while self._queued < min(self._settings.batch, self._admitted - self._in_calls):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), remaining)

    def _take(self):
        """The oldest requests of one file that fit into a call; one that is larger alone.

        It is a half of what waits, unless that is little: the other half keeps the runtime busy while clients get
        their answers and ask again.
        """
        most = min(self._settings.batch, max(_LITTLE, (self._queued + 1) // 2))
        batch = [self._queue.popleft()]
        size = len(batch[0].images)
        while self._queue and self._queue[0].loaded is batch[0].loaded:
            if size + len(self._queue[0].images) > most:
                break
            batch.append(self._queue.popleft())
            size += len(batch[-1].images)
        self._queued -= size
        return batch

    def _compute(self, batch, classifier):
        """One dictionary of outputs for each request; runs in one of the model's threads."""
        started, size = time.perf_counter(), self._settings.batch
        images = np.concatenate([one.images for one in batch])
        outputs = {output for one in batch for output in one.outputs}
        if outputs == {"logits"}:
            rows = {"logits": classifier.predict_logits(images, size)}
        elif outputs == {"probabilities"}:
            rows = {"probabilities": classifier.predict_proba(images, size)}
        else:
            rows = dict(zip(("logits", "probabilities"), classifier.predict_both(images, size), strict=True))
        seconds = time.perf_counter() - started
        self._rates.append(len(images) / max(seconds, 1e-6))
        self._images.inc(len(images))
        self._batches.observe(len(images))
        self._running.observe(seconds)
        stops = np.cumsum([len(one.images) for one in batch])
        return [
            {output: rows[output][stop - len(one.images) : stop] for output in one.outputs}
            for one, stop in zip(batch, stops, strict=True)
        ]


def _answer(batch, found):
    for one, outputs in zip(batch, found, strict=True):
        if one.answer.done():  # its request was cancelled
            continue
        if isinstance(outputs, Exception):
            one.answer.set_exception(outputs)
        else:
            one.answer.set_result(outputs)
