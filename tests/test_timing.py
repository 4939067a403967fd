from keras_cifar.timing import interleaved_seconds, median_rates


def test_ways_take_turns_and_the_slower_one_is_slower():
    order, now = [], [0.0]

    def way(name, seconds):
        def call():
            order.append(name)
            now[0] += seconds

        return call

    seconds = interleaved_seconds({"fast": way("fast", 0.25), "slow": way("slow", 0.5)}, rounds=3, calls=2,
                                  clock=lambda: now[0])  # fmt: skip
    assert order == (["fast"] * 3 + ["slow"] * 3) * 4
    assert seconds == {"fast": [[0.25, 0.25]] * 3, "slow": [[0.5, 0.5]] * 3}
    assert median_rates(seconds, images_per_call=8) == {"fast": 32, "slow": 16}


def test_the_rate_is_that_of_the_middle_round():
    assert median_rates({"a": [[1.0, 1.0], [0.5, 0.5], [4.0, 4.0]]}, 10) == {"a": 10.0}
    assert median_rates({"a": [[1.0], [0.5]]}, 10) == {"a": 15.0}
