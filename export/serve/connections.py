"""What uvicorn lacks: an end for clients that never finish what they send, and a quiet one for itself."""

import contextlib
import json
import signal
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """HTTP/1.1 whose requests must have sent their headers, and whose refused bodies must end, in `seconds`."""

    seconds = 30.0
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Starts to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Waits on where headers are not complete; the application has a limit of its own for a body."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            if self.conn.our_state not in (h11.DONE, h11.MUST_CLOSE):
                self._stop_waiting()
        elif self.timeout_keep_alive_task is None:
            self._wait()

    def on_response_complete(self) -> None:
        """Waits for the rest of a body that was answered before it had all come."""
        super().on_response_complete()
        self._stop_waiting()
        if self.conn.their_state is h11.SEND_BODY:
            self._wait()

    def _wait(self):
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._expire)

    def _stop_waiting(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self):
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE:
            for event in _too_late(self.seconds):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class StoppingServer(uvicorn.Server):
    """Says when it listens; stops at a signal, and does not send it to this process again after that.

    Args:
        config: of uvicorn.
        started: called when it listens and a signal stops it.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: Any = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self):
        """Within it, SIGINT and SIGTERM stop the server."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _too_late(seconds):
    """The events of an answer to headers that have not come."""
    text = f"Expected the headers of a request within {seconds:g} s, but they have not come; send them faster."
    body = json.dumps({"error": text}).encode()
    kinds = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    return (
        h11.Response(status_code=408, headers=list(kinds.items()), reason=b"Request Timeout"),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
