import time

from keras_cifar.timing import interleaved_seconds, median_rates


def test_ways_take_turns_and_the_slower_one_is_slower():
    order = []

    def way(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    seconds = interleaved_seconds({"fast": way("fast", 0.001), "slow": way("slow", 0.01)}, rounds=3, calls=2)
    assert order == (["fast"] * 3 + ["slow"] * 3) * 4
    assert [len(turn) for turn in seconds["fast"]] == [2, 2, 2]
    rates = median_rates(seconds, images_per_call=8)
    assert rates["slow"] < rates["fast"] and rates["slow"] < 8 / 0.01


def test_the_rate_is_that_of_the_middle_round():
    assert median_rates({"a": [[1.0, 1.0], [0.5, 0.5], [4.0, 4.0]]}, 10) == {"a": 10.0}
    assert median_rates({"a": [[1.0], [0.5]]}, 10) == {"a": 15.0}
