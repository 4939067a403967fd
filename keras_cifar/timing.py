"""Times several ways of doing one thing in turns, so that a machine whose speed wanders treats them alike."""

import time


def interleaved_seconds(ways: dict, rounds: int = 5, calls: int = 4) -> dict[str, list[list[float]]]:
    """Seconds of each call of each way, round by round, after one round to warm up.

    Args:
        ways: name -> function without arguments.
        rounds: turns each way gets.
        calls: calls a turn.
    """
    seconds = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, call in ways.items():
            call()  # what the way before has left in the caches is not its own
            turn = []
            for _ in range(calls):
                started = time.perf_counter()
                call()
                turn.append(time.perf_counter() - started)
            if round_:
                seconds[name].append(turn)
    return seconds


def median_rates(seconds: dict[str, list[list[float]]], images_per_call: int) -> dict[str, float]:
    """Images a second of each way: the middle one of its rounds."""
    rates = {}
    for name, rounds in seconds.items():
        ordered = sorted(len(turn) * images_per_call / sum(turn) for turn in rounds)
        rates[name] = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return rates
