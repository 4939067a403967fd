"""Training on several machines, or several GPUs of each, by JAX: each takes its part of every batch.

The recipe's batch is that of all together, and a batch is a pure function of (seed, step): so the weights do not depend
on how many machines there are, up to the order of sums. Only machine 0 writes the run folder; the others work in a
folder of their own that is thrown away. Steps are those of Keras' `DataParallel`: weights on all devices, batches split
among them, and XLA puts the sums of gradients, and of the statistics of batch norms, over all of them. `DataParallel`
itself would also split what is not trained: features, val, and what is saved.
"""

import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_cifar.checks import Number
from keras_cifar.errors import InputError, first_line
from keras_cifar.program import install_hint

_MOST = 4096
_WAIT_SECONDS = 300  # for all machines to be started
_LAST_SECONDS = 2
_TEXT_BYTES = 2**20
_LOST = re.compile("gloo|nccl|rccl|coordination|peer|socket|unavailable|deadline", re.IGNORECASE)
_AGAIN = "start all of them again by the same commands: they resume at the last saved step"


@dataclasses.dataclass(frozen=True)
class Machines:
    """Which of how many machines this one is, and where they meet.

    Attributes:
        count: of machines, or of processes.
        index: of this one, from 0.
        coordinator: HOST:PORT of machine 0, which opens it.
        wait_seconds: for the others, before it is given up.
    """

    count: int
    index: int
    coordinator: str
    wait_seconds: float = _WAIT_SECONDS

    @property
    def writes(self) -> bool:
        """Whether this machine writes the run folder."""
        return self.index == 0

    def check(self) -> None:
        """Raises InputError for values that cannot be, and where Keras cannot run on JAX."""
        Number(1, _MOST, whole=True, example=2).check("--machines", self.count)
        Number(0, self.count - 1, whole=True).check("--machine", self.index)
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(
                f"Expected --coordinator HOST:PORT of machine 0, such as 10.0.0.1:9876, but got {self.coordinator}; "
                "correct it."
            )
        if keras.backend.backend() != "jax":
            raise InputError(
                f"Expected Keras on JAX for --machines, but it runs on {keras.backend.backend()}; set "
                f"KERAS_BACKEND=jax, after {install_hint('jax')}."
            )

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError unless a batch can be split into equal parts for all devices."""
        import jax

        devices = jax.device_count()
        if batch_size < devices:
            raise InputError(
                f"Expected at least one image a batch for each of {devices} devices on {self.count} machines, but the "
                f"batch has {batch_size}; take fewer machines, or a larger --batch-size."
            )
        if batch_size % devices:
            raise InputError(
                f"Expected a batch that {devices} devices on {self.count} machines can share equally, but it has "
                f"{batch_size} images; pass --batch-size {batch_size - batch_size % devices}."
            )

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Within it, the machines are connected; entered once a process, before JAX computes anything.

        Raises:
            InputError: see `check`; the port is taken, or the others do not come.
        """
        self.check()
        if self.count > 1:
            self._join()
        try:
            yield
            self.exchange({})  # all are done
        except BaseException:
            _LEAVING.set()
            if self.writes and self.count > 1:
                time.sleep(_LAST_SECONDS)  # by it the others are connected: they say first what they have to say
            raise
        _LEAVING.set()
        if self.writes and self.count > 1:
            time.sleep(_LAST_SECONDS)

    def _join(self):
        import jax

        self._check_port()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Else the end of one machine ends the others by an abort before they can say why.
        jax.config.update("jax_enable_recoverability", True)
        _say_before_abort(f"error: {self._lost('its coordinator, machine 0, ended')}\n")
        try:
            jax.distributed.initialize(
                self.coordinator, self.count, self.index, initialization_timeout=int(self.wait_seconds)
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"Expected {self.count} machines at {self.coordinator} within {self.wait_seconds:.0f} s, but they did "
                f"not all come ({first_line(error)[:90]}); start each with its own --machine and the same --machines."
            ) from error
        self._check_devices()
        self.exchange({})  # gloo connects at the first sum, and waits half a minute: not after data of unequal sizes

    def _check_devices(self):
        import jax

        counts = collections.Counter(device.process_index for device in jax.devices())
        index, count = max(counts.items(), key=lambda item: item[1] != counts[0])
        if count != counts[0]:
            raise InputError(
                f"Expected as many devices on each machine, but machine 0 has {counts[0]} and machine {index} {count}; "
                "set CUDA_VISIBLE_DEVICES so that all have the same number."
            )

    def _check_port(self):
        """A port that is taken or that nobody opens would end this process, or have it wait, without a word."""
        host, _, port = self.coordinator.rpartition(":")
        host = host.strip("[]")
        if self.writes:
            try:
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("", int(port)))
            except OSError as error:
                raise InputError(
                    f"Expected a free port for --coordinator, but {port} cannot be opened ({error.strerror}); choose "
                    "another, for all machines."
                ) from error
            return
        stop = time.monotonic() + self.wait_seconds
        while True:
            try:
                return socket.create_connection((host, int(port)), 5).close()
            except OSError as error:
                if time.monotonic() > stop or isinstance(error, socket.gaierror):
                    raise InputError(
                        f"Expected machine 0 at {self.coordinator}, but it cannot be reached "
                        f"({error.strerror or first_line(error)}); start it, or correct --coordinator."
                    ) from error
            time.sleep(0.2)

    def _lost(self, reason):
        return f"Expected all {self.count} machines to train on, but one ended ({reason}); {_AGAIN}."

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within it, that another machine has ended is one sentence.

        Raises:
            InputError: it has.
        """
        try:
            yield
        except InputError:
            raise
        except (ValueError, RuntimeError) as error:  # of whatever carries the sums
            if _LOST.search(str(error)):
                raise InputError(self._lost(first_line(error)[:90])) from error
            raise

    def exchange(self, values: dict) -> list[dict]:
        """What each machine has, in their order.

        Args:
            values: JSON, in at most 1 MiB.
        """
        from jax.experimental import multihost_utils

        text = json.dumps(values).encode()
        if len(text) > _TEXT_BYTES:
            raise ValueError(f"{len(text)} bytes are more than {_TEXT_BYTES}")
        padded = np.zeros(_TEXT_BYTES, np.uint8)
        padded[: len(text)] = np.frombuffer(text, np.uint8)
        with self.together():
            found = np.asarray(multihost_utils.process_allgather(padded)).reshape(self.count, _TEXT_BYTES)
        return [json.loads(bytes(row).rstrip(b"\0")) for row in found]

    def tell(self, error: InputError) -> None:
        """Tells the others, who are to agree on what is the same, why this machine does not begin."""
        self.exchange({"error": str(error)})

    def agree(self, facts: dict[str, Any]) -> None:
        """Compares what must be the same everywhere.

        Args:
            facts: name for people -> JSON value.

        Raises:
            InputError: one differs, or another machine does not begin.
        """
        everywhere = self.exchange({"facts": facts})
        for index, other in enumerate(everywhere):
            if "error" in other:
                raise InputError(f"Expected all machines to begin, but machine {index} ended: {other['error']}")
        ours = everywhere[0]["facts"]
        for index, other in enumerate(everywhere):
            for name, value in other["facts"].items():
                if value != ours[name]:
                    raise InputError(
                        f"Expected the same {name} on all machines, but {_difference(ours[name], value, index)}; make "
                        "them the same."
                    )

    def describe(self, batch_size: int, learning_rate: float) -> str:
        """A line on what a step is."""
        import jax

        devices = jax.device_count()
        return (
            f"{self.count} machines with {devices} devices train together: each batch of {batch_size} images is "
            f"{batch_size // devices} on each device; learning rate {learning_rate:g}, as with one"
        )

    def share_state(self, state: tuple[list, dict] | None, like: tuple[list, dict]) -> tuple[list, dict] | None:
        """The state that machine 0 resumes from, on all; None where it begins.

        Args:
            state: of this machine; counts on machine 0 alone.
            like: a state of the same shapes.
        """
        values = self.exchange({"progress": state[1] if state else None})[0]["progress"]
        return None if values is None else (self.share(state[0] if state and self.writes else like[0]), values)

    def share(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Arrays of machine 0, on all; the others pass arrays of the same shapes and types."""
        from jax.experimental import multihost_utils

        with self.together():
            return [np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(array))) for array in arrays]


def _difference(ours, theirs, index):
    """Such as "machine 0 has keras 3.15.1 and machine 2 3.15.0"."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return f"machine 0 has {name} {ours.get(name)} and machine {index} {theirs.get(name)}"
    return f"machine 0 has {ours} and machine {index} {theirs}"


def _say_before_abort(text):
    """Has the native abort by which JAX ends a process that lost machine 0 print a sentence, and end it with code 2.

    What the libraries print meanwhile goes nowhere: it comes from their threads, as pages of addresses.
    """
    terminal = os.dup(2)
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(terminal), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)

    def end(number):
        if not _LEAVING.is_set():
            os.write(terminal, text.encode())
        library["_exit"](2)

    library = ctypes.CDLL(None)
    _KEPT.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
    library.signal(signal.SIGABRT, _KEPT[-1])


_KEPT: list = []  # what C calls must stay
_LEAVING = threading.Event()


class Devices:
    """Where the arrays of a step are, on all devices of all machines.

    Attributes:
        machines: see `Machines`.
    """

    def __init__(self, machines: Machines):
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        self.machines, mesh = machines, Mesh(np.array(jax.devices()), ("batch",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._split = lambda axis: NamedSharding(mesh, PartitionSpec(*[None] * axis, "batch"))

    def everywhere(self, value: Any) -> Any:
        """A value that all machines have, as one array on all devices."""
        import jax

        local = [jax.device_put(value, device) for device in jax.local_devices()]
        return jax.make_array_from_single_device_arrays(local[0].shape, self._everywhere, local)

    def split(self, batch: np.ndarray, axis: int) -> Any:
        """A batch that all machines have, as one array whose parts are on different devices; each sends its own.

        Args:
            batch: the same on all machines.
            axis: of its images; their number is a multiple of the devices.
        """
        import jax

        size = batch.shape[axis] // self.machines.count
        own = np.take(batch, range(self.machines.index * size, (self.machines.index + 1) * size), axis)
        return jax.make_array_from_process_local_data(self._split(axis), own, batch.shape)

    def local(self, array: Any) -> Any:
        """An array that is the same on all devices, as this machine's first has it."""
        return array.addressable_data(0)
