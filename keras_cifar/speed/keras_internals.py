"""Every private name of Keras and TensorFlow that this package uses, and nothing else; setup.py bounds their versions.

Each is here because there is no public way to the same. `tests/speed/test_keras_internals.py` says which one went away.
"""

from typing import Any

import keras


def nodes_by_depth(model: keras.Model) -> dict[int, list]:
    """A functional model's calls of operations, by their distance from the outputs."""
    return model._nodes_by_depth


def producer(tensor: Any) -> keras.Operation:
    """The operation that a symbolic tensor comes out of."""
    return tensor._keras_history.operation


def flatten_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A model or layer, its layers and theirs, all the way down; `model.layers` has only the first of these steps."""
    return list(model._flatten_layers())


def frozen_graph(function: Any) -> bytes:
    """A traced `tf.function` as TensorFlow's GraphDef, its variables made constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function).graph.as_graph_def().SerializeToString()


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list:
    """The variables that hold the moving averages of what the optimizer was built with; it was made with `use_ema`."""
    return list(optimizer._model_variables_moving_average)


class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` (Kingma and Ba, 2015), same slots and same formula, on one device.

    On TensorFlow one kernel a variable takes the place of a dozen passes over it.

    Attributes:
        rate_scales: factor on the learning rate of each variable, in the order they were built in; empty for none.
    """

    rate_scales: tuple[float, ...] = ()

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() != "tensorflow" and not self.rate_scales:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        # Keras would first sum over replicas, by a custom gradient that TensorFlow never lets go of, nor of its graph.
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            rate = learning_rate
            if self.rate_scales:
                rate = rate * self.rate_scales[self._get_variable_index(variable)]
            self.update_step(gradient, variable if keras.backend.backend() != "tensorflow" else variable.value, rate)

    def update_step(self, gradient, variable, learning_rate):
        if keras.backend.backend() != "tensorflow":
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf

        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )
        return None
