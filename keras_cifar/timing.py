"""Times several ways of doing one thing in turns, so that a machine whose speed wanders treats them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from tqdm import tqdm

K = TypeVar("K", bound=Hashable)


def interleaved_seconds(
    ways: Mapping[K, Callable],
    rounds: int = 5,
    calls: int = 4,
    progress: str | None = None,
    clock: Callable = time.perf_counter,
) -> dict[K, list[list[float]]]:
    """Seconds of each call of each way, round by round, after one round to warm up.

    Args:
        ways: name -> function without arguments.
        rounds: turns each way gets.
        calls: calls per turn.
        progress: words before a bar that counts turns; None for no bar.
        clock: gives the time in seconds.
    """
    seconds: dict[K, list[list[float]]] = {name: [] for name in ways}
    bar = tqdm(total=(rounds + 1) * len(ways), desc=progress, disable=True if progress is None else None, leave=False)
    for round_ in range(rounds + 1):
        for name, call in ways.items():
            call()  # what the way before has left in the caches is not its own
            turn = []
            for _ in range(calls):
                started = clock()
                call()
                turn.append(clock() - started)
            if round_:
                seconds[name].append(turn)
            bar.update()
    bar.close()
    return seconds


def median_rates(seconds: Mapping[K, list[list[float]]], images_per_call: int) -> dict[K, float]:
    """Images per second of each way: the middle one of its rounds."""
    rates = {}
    for name, rounds in seconds.items():
        ordered = sorted(len(turn) * images_per_call / sum(turn) for turn in rounds)
        rates[name] = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return rates
