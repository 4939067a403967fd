"""What uvicorn lacks: an end for clients that never finish what they send, and a quiet one for itself."""

import contextlib
import http
import json
import signal
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_REFUSED_SECONDS = 0.5


class TimedProtocol(H11Protocol):
    """HTTP/1.1 whose clients have `seconds` for the headers of a request, the rest of a refused body, and to read on.

    Attributes:
        seconds: see above.
        most: connections at a time; one more gets a sentence, and those that are there go on.
        refused: called for each that is one too many.
    """

    seconds = 30.0
    most = 1000
    refused: Callable[[], None] = staticmethod(lambda: None)
    _timer: Any = None
    _reading: Any = None
    _is_refused = False

    def connection_made(self, transport: Any) -> None:
        """Starts to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Waits on where headers are not complete; the application has a limit of its own for a body."""
        if self._is_refused:
            return
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
        self._watch()
        if self.conn.their_state is h11.SEND_BODY:
            self._wait()

    def pause_writing(self) -> None:
        """Watches a client that does not read as fast as it is answered."""
        super().pause_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP."""
        self._say(400, f"Expected a request of HTTP/1.1, but got none ({msg.rstrip('.')}); use another client.")
        self.transport.close()

    def _watch(self):
        """Cuts off a client that reads nothing for `seconds` while something waits to be sent to it."""
        if self._reading is None and (left := self.transport.get_write_buffer_size()):
            self._reading = self.loop.call_later(self.seconds, self._check_reading, left)

    def _check_reading(self, before):
        self._reading = None
        if self.transport.get_write_buffer_size() < before:
            self._watch()
        else:
            self.transport.abort()

    def _stop_watching(self):
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _refuse(self):
        """Answers what has not been asked yet, and closes a moment later: at once, the client would not get to read."""
        self._is_refused = True
        self.connections.discard(self)
        self.refused()
        busy = f"Expected one of {self.most} connections, but all are taken; come again in 1 s."
        self._say(503, busy, {"retry-after": "1"})
        self.loop.call_later(_REFUSED_SECONDS, self.transport.close)

    def _say(self, status, sentence, headers=None):
        for event in _sentence(status, sentence, headers or {}):
            self.transport.write(self.conn.send(event))

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
            within = f"Expected the headers of a request within {self.seconds:g} s"
            self._say(408, f"{within}, but they have not come; send them faster.")
        self.transport.close()


class StoppingServer(uvicorn.Server):
    """Says when it listens; stops at a signal, and does not send it to this process again after that.

    Args:
        config: of uvicorn.
        started: called when it listens and a signal stops it.

    Attributes:
        cut_off: connections that were left, after it had stopped, without all of their answer.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
        super().__init__(config)
        self._started, self.cut_off = started, 0

    async def startup(self, sockets: Any = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: Any = None) -> None:
        """Answers what has come, and counts what is left."""
        await super().shutdown(sockets)
        self.cut_off = len(self.server_state.connections)

    @contextlib.contextmanager
    def capture_signals(self):
        """Within it, SIGINT and SIGTERM stop the server."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _sentence(status, sentence, headers):
    """The events of an answer that no application has made."""
    body = json.dumps({"error": sentence}).encode()
    kinds = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    reason = http.HTTPStatus(status).phrase.encode()
    return (
        h11.Response(status_code=status, headers=list(kinds.items()), reason=reason),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
