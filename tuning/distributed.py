"""A search on several machines: KerasTuner's chief hands out the trials over gRPC, workers run them.

The gRPC is not authenticated: a private network only. The search's folder is shared by all.
"""

import contextlib
import dataclasses
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from keras_cifar.checks import show
from keras_cifar.errors import InputError

# How long a chief that has no trials left waits for workers that have not been told.
_FAREWELL_SECONDS = 30.0
_CHIEF = "chief"


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes of a search, and which of them this one is.

    Attributes:
        chief: HOST:PORT at which the chief hands out trials; None for a search in this process alone.
        worker: name of this worker of the chief; None to be the chief.
        patience: seconds that a worker waits for its chief at the start.
    """

    chief: str | None = None
    worker: str | None = None
    patience: float = 600.0

    @property
    def address(self) -> tuple[str, int] | None:
        """Of the chief; None for a search in one process."""
        return None if self.chief is None else parse_address(self.chief)

    def check(self) -> None:
        """Raises InputError where the address or the name has another form, or a worker has no chief."""
        if self.chief is None and self.worker is not None:
            raise InputError("Expected --chief with --worker, but got --worker alone; name the chief's HOST:PORT.")
        if self.worker is not None:
            check_worker_name(self.worker)
        self.address  # noqa: B018


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as host and port; an IPv6 host is in brackets, and keeps them.

    Raises:
        InputError: it has another form.
    """
    host, _, port = text.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536
    if not is_port or not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host):
        raise InputError(f"Expected HOST:PORT for --chief, but got {show(text)}; try 127.0.0.1:8765.")
    return host, int(port)


def check_worker_name(name: str) -> None:
    """Raises InputError for a name that cannot be a worker's."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name) or _CHIEF in name:
        raise InputError(
            f"Expected at most 100 letters, digits, - and _ for --worker, and not the word {_CHIEF}, but got "
            f"{show(name)}; try worker1."
        )


@contextlib.contextmanager
def role(team: Team) -> Iterator[None]:
    """Tells KerasTuner, for the time of the block, whether this process is chief, worker or alone."""
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    before = {name: os.environ.pop(name, None) for name in names}
    if (address := team.address) is not None:
        os.environ.update(zip(names, (team.worker or _CHIEF, address[0], str(address[1])), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def serve(oracle: Any, address: tuple[str, int]) -> None:
    """Hands out the trials of an oracle until all have ended.

    KerasTuner's service as it is; its own loop around it looks only every 20 seconds whether all is
    done, and waits for ever for a worker that died between two trials.

    Raises:
        InputError: the address cannot be used.
    """
    import grpc

    from tuning.oracles import add_oracle_service

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    servicer = add_oracle_service(oracle, server)
    try:
        server.add_insecure_port("{}:{}".format(*address))
    except RuntimeError as error:
        raise InputError(
            f"Expected to serve at {address[0]}:{address[1]}, but it cannot be used; name a free address of "
            "this machine."
        ) from error
    server.start()
    try:
        _wait_until_done(oracle, servicer)
    finally:
        server.stop(grace=1).wait()


def _wait_until_done(oracle, servicer):
    """Returns when no trial is left or under way, and the workers know."""
    done_at = None
    while True:
        time.sleep(0.2)
        is_full = len(oracle.trials) >= oracle.max_trials
        if oracle.ongoing_trials or not (is_full or servicer.stop_triggered):
            done_at = None
            continue
        done_at = done_at or time.monotonic()
        all_know = servicer.stop_triggered and not oracle.tuner_ids
        if all_know or time.monotonic() - done_at > _FAREWELL_SECONDS:
            return


def wait_for_chief(address: tuple[str, int], patience: float, say: Callable[[str], None]) -> None:
    """Waits until a chief answers.

    Raises:
        InputError: none does in `patience` seconds.
    """
    deadline, told = time.monotonic() + patience, False
    connected = address[0].strip("[]"), address[1]
    while True:
        with contextlib.suppress(OSError), socket.create_connection(connected, timeout=5):
            return
        if time.monotonic() > deadline:
            raise InputError(
                f"Expected a chief at {address[0]}:{address[1]}, but none answered in {patience:.0f} s; start it "
                "first, or check the address."
            )
        if not told:
            say(f"Waiting for the chief at {address[0]}:{address[1]}")
            told = True
        time.sleep(0.2)


class PatientClient:
    """KerasTuner's client of a chief, whose calls outlive a restart of the chief."""

    def __init__(self, client):
        self._client = client

    def create_trial(self, tuner_id):
        """The next trial; a moment later where there is none yet."""
        trial = self.__getattr__("create_trial")(tuner_id)
        if trial.status == "IDLE":
            time.sleep(0.5)
        return trial

    def __getattr__(self, name):
        found = getattr(self._client, name)
        return _again_while_unavailable(found) if callable(found) else found


def _again_while_unavailable(call):
    """The call, repeated while the chief is away; each repetition itself waits for the chief."""
    import grpc

    def patient(*args, **kwargs):
        while True:
            try:
                return call(*args, **kwargs)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise InputError(
                        "Expected the chief to come back, but it did not in an hour; start both again."
                    ) from error
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                time.sleep(0.5)

    return patient
