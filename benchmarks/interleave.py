"""Times several ways of doing one thing in turns, so that a machine whose speed wanders treats them alike."""

import statistics
import time


def interleave(ways: dict, images_per_call: int, rounds: int = 5, calls: int = 4) -> dict[str, float]:
    """Median images a second of each way over the rounds.

    Args:
        ways: name -> function without arguments.
        images_per_call: images that one call handles.
        rounds: turns each way gets, after one to warm up.
        calls: calls a turn.
    """
    rates = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, call in ways.items():
            call()  # what the way before has left in the caches is not its own
            started = time.perf_counter()
            for _ in range(calls):
                call()
            if round_:
                rates[name].append(calls * images_per_call / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def print_table(title: str, rates: dict[str, float], ours: str) -> None:
    """Prints images a second and how many times faster `ours` is."""
    print(title)
    for name, rate in rates.items():
        print(f"  {name:28} {rate:10,.0f} images/s   ours is {rates[ours] / rate:5.2f}x", flush=True)
