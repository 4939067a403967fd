"""Many clients that ask one after the other, over connections that stay open: a load test without another program."""

import asyncio
import collections
import dataclasses
import random
import time

import numpy as np


@dataclasses.dataclass
class Load:
    """What came of a load test.

    Attributes:
        seconds: from the start to the last answer.
        statuses: status -> answers.
        lost: requests without an answer.
        latencies: of the good requests, in seconds.
    """

    seconds: float = 0.0
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    lost: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> dict:
        """Rates and percentiles, as JSON values."""
        p50, p95, p99 = np.percentile(self.latencies, [50, 95, 99]) if self.latencies else (None,) * 3
        good = self.statuses[200]
        return {
            "seconds": self.seconds,
            "answers": sum(self.statuses.values()),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "lost": self.lost,
            "images_per_second": good / self.seconds,
            "p50_ms": 1000 * p50,
            "p95_ms": 1000 * p95,
            "p99_ms": 1000 * p99,
        }


def request(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run_load(port: int, clients: int, seconds: float, good: list[bytes], bad: list[bytes], share_bad: float) -> Load:
    """Runs clients against 127.0.0.1.

    Args:
        port: of the server.
        clients: at a time; each waits for an answer before it asks again.
        seconds: after which nobody asks again; what was asked is waited for.
        good: requests to choose from.
        bad: likewise.
        share_bad: of the requests, from 0 to 1.
    """
    load = Load()
    asyncio.run(_run(load, port, clients, seconds, (good, bad, share_bad)))
    return load


async def _run(load, port, clients, seconds, kinds):
    started = time.perf_counter()
    await asyncio.gather(*(_client(load, port, started + seconds, kinds, random.Random(i)) for i in range(clients)))
    load.seconds = time.perf_counter() - started


async def _client(load, port, end, kinds, chance):
    good, bad, share_bad = kinds
    streams = None
    while time.perf_counter() < end:
        is_bad = chance.random() < share_bad
        content = chance.choice(bad if is_bad else good)
        asked = time.perf_counter()
        try:
            streams = streams or await asyncio.open_connection("127.0.0.1", port)
            streams[1].write(content)
            status, stays = await _answer(streams[0])
        except (OSError, ValueError, asyncio.IncompleteReadError):
            load.lost += 1
            streams = None
            await asyncio.sleep(0.05)
            continue
        load.statuses[status] += 1
        if status == 200 and not is_bad:
            load.latencies.append(time.perf_counter() - asked)
        if not stays:
            streams[1].close()
            streams = None
    if streams:
        streams[1].close()


async def _answer(reader):
    """The status, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    await reader.readexactly(int(fields.get(b"content-length", 0)))
    return status, fields.get(b"connection") != b"close"
