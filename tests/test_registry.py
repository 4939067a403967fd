"""Names that others add: once each, looked up in one sentence."""

import pytest

from keras_cifar.errors import InputError
from keras_cifar.registry import Registry


def test_names_are_kept_in_order_and_found():
    colours = Registry("colour")
    assert colours.register("red", 1) == 1
    colours.register("blue", 2)
    assert list(colours) == ["red", "blue"] and len(colours) == 2 and "red" in colours and colours["blue"] == 2
    colours.remove("red")
    assert list(colours) == ["blue"] and "red" not in colours


@pytest.mark.parametrize("name", ["", None, 3, "red"])
def test_a_taken_name_and_none_are_refused(name):
    colours = Registry("colour")
    colours.register("red", 1)
    with pytest.raises(InputError, match="Expected a new name for a colour"):
        colours.register(name, 2)
    assert colours["red"] == 1


def test_an_unknown_name_is_one_sentence_with_the_nearest():
    colours = Registry("colour")
    colours.register("yellow", 1)
    with pytest.raises(
        InputError, match=r"Expected a colour among yellow, but got 'yelow' \(did you mean 'yellow'\?\)"
    ):
        colours["yelow"]
