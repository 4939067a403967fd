"""Training steps on JAX: many in one compiled call, the state handed in and out as arrays."""

from collections.abc import Callable

import keras
import numpy as np

from keras_cifar.training.feeds import STEPS_A_CALL, Feed
from keras_cifar.training.machines import Devices, Machines
from keras_cifar.training.objective import Objective


def jax_steps(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, objective: Objective, feed: Feed, in_loop: bool,
    machines: Machines | None = None,
) -> Callable:  # fmt: skip
    """The function of `TrainSteps`.

    Args:
        model, objective, feed: see `TrainSteps`.
        optimizer: built for the model's trainable variables.
        in_loop: whether a call may have several steps; XLA computes convolutions in a loop on one core of a CPU.
        machines: that share each batch; None for this one's first device alone.

    Returns:
        (inputs, truth, rates), each of S <= 32 steps -> losses (S,), top-1 (S,).
    """
    import jax

    trained, others, state = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    known = {id(variable) for variable in (*trained, *others)}
    fixed = [variable for variable in feed.variables if id(variable) not in known]
    rate_index = next(i for i, variable in enumerate(state) if variable is optimizer.learning_rate)

    def loss_of(weights, other_weights, fixed_weights, given, truth):
        values = zip((*trained, *others, *fixed), (*weights, *other_weights, *fixed_weights), strict=True)
        with keras.StatelessScope(state_mapping=list(values)) as scope:
            logits = model(feed.make(given), training=True)
            loss = objective.mean_loss(truth, logits)
        return loss, ([scope.get_current_value(variable) for variable in others], objective.top1(truth, logits))

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)

    def step(weights, other_weights, optimizer_state, fixed_weights, batch):
        given, truth, rate = batch
        (loss, (other_weights, top1)), gradients = gradient_of(weights, other_weights, fixed_weights, given, truth)
        optimizer_state = [*optimizer_state]
        optimizer_state[rate_index] = rate
        weights, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, weights)
        return (list(weights), other_weights, list(optimizer_state)), (loss, top1)

    take = _compiled(step, in_loop)
    if machines is not None:
        take = _on_all(take, Devices(machines), (feed.shape.index(None) + 1, 1))

    def call(inputs, truth, rates):
        count = len(rates)  # calls of fewer steps are filled up: a function compiles for one number alone
        batches = [_filled(part, STEPS_A_CALL) if in_loop else part for part in (inputs, truth, rates)]
        values = [[variable.value for variable in part] for part in (trained, others, state, fixed)]
        results, figures = take(*values[:3], values[3], batches, count)
        for variables, arrays in zip((trained, others, state), results, strict=True):
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)
        return [part[:count] for part in figures]

    return call


def _compiled(step, in_loop):
    """The function of the state and stacked batches that takes `count` of their steps, or the only one."""
    import jax
    from jax import numpy as jnp

    def at(batches, number):
        return jax.tree.map(lambda part: part[number], batches)

    def take(weights, others, state, fixed, batches, count):
        def body(number, carry):
            values, figures = carry
            values, found = step(*values, fixed, at(batches, number))
            return values, [part.at[number].set(figure) for part, figure in zip(figures, found, strict=True)]

        figures = [jnp.zeros(len(batches[2]), jnp.float32)] * 2
        carry = (weights, others, state), figures
        return jax.lax.fori_loop(0, count, body, carry) if in_loop else body(0, carry)

    return jax.jit(take, donate_argnums=(0, 1, 2))


def _on_all(take, devices, axes):
    """The same function, its batches split among the devices of all machines and its state on each of them."""
    import jax

    def take_on_all(weights, others, state, fixed, batches, count):
        values = jax.tree.map(devices.everywhere, [weights, others, state, fixed])
        parts = [devices.split(part, axis) for part, axis in zip(batches, axes, strict=False)]
        with devices.machines.together():
            found = take(*values, [*parts, devices.everywhere(batches[2])], count)
            return jax.tree.map(devices.local, jax.block_until_ready(found))

    return take_on_all


def _filled(part, count):
    """An array, its first dimension filled up with zeros."""
    if len(part) == count:
        return part
    return np.concatenate([part, np.zeros((count - len(part), *part.shape[1:]), part.dtype)])
