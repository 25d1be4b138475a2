"""Training by steps along the gradient, of linear heads and perceptrons: an epoch is one scan over its batches.

Rows stay on the device and are arguments of what is compiled, never constants in it; so are the learning rate, the
weight decay and the share of dropout, so that heads that differ in these train side by side under `vmap`. Of linear
heads that read the same batches the scores of all are one product.

A state holds kernels as the field does, (D, C). Training transposes them to (C, D), "class-major", for the length of
its loops, and scores to (C, N): with few classes XLA's CPU product for the gradient is 8 times faster so (a step of 256
rows: 0.10 ms instead of 0.48 at 512 features, 0.44 instead of 2.07 at 2,048), and so is a softmax whose inner loop
runs over rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike

from transfer.errors import UsageError
from transfer.heads.targets import CRITERIA

# {"kernel" (D, C), "bias" (C,)} of the last layer and, of a perceptron, "hidden1", "hidden2", … of the same two each
Params = dict[str, Any]
# {"params": Params, "opt_state": optax's own, "epoch": int32, epochs done so far}
State = dict[str, Any]
Metrics = dict[str, jax.Array]
# (i, units) -> the units (U, N) of hidden layer i without those that are left out.
Dropout = Callable[[int, jax.Array], jax.Array]

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults; optax's epsilon would be 1e-8
# Epochs whose heads are validated by one product hold at most so many bytes of scores, or of kernels.
VALIDATION_BYTES = 8 << 20
MOST_VALIDATED = 16


class Rates(NamedTuple):
    """The rates in which heads that train side by side differ: numbers, or arrays (H,) of them; None: there is none."""

    learning_rate: ArrayLike  # of the optimiser; where a schedule lowers it, at the start
    weight_decay: ArrayLike | None = None  # of kernels, not of biases
    dropout: ArrayLike | None = None  # the share of a perceptron's hidden units that a step leaves out


def keras_adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Adam where Keras puts epsilon: beside the square root of the second moment *before* its bias correction.

    Keras (and section 2 of Kingma & Ba, "epsilon hat") steps by `lr sqrt(c2)/c1 m / (sqrt(v) + eps)`, with
    `c = 1 - beta^t`; optax by `lr (m/c1) / (sqrt(v/c2) + eps)`. The two are one where optax's epsilon is
    `eps / sqrt(c2)`: 32 times larger at the first step, equal after a few thousand. So that is its schedule.
    The learning rate is no part of the state, so that a sweep may trace it.
    """

    def epsilon(count: jax.Array) -> jax.Array:
        return EPSILON / jnp.sqrt(1 - BETA_2 ** (count + 1))

    adam = optax.inject_hyperparams(optax.scale_by_adam, static_args=("b1", "b2", "eps_root"))
    return optax.chain(adam(b1=BETA_1, b2=BETA_2, eps=epsilon), optax.scale_by_learning_rate(learning_rate))


# Name -> learning rate and momentum -> the transformation, whose state's shape depends on neither.
OPTIMISERS: Mapping[str, Callable[[ArrayLike, float], optax.GradientTransformation]] = {
    "adam": lambda rate, _: keras_adam(rate),
    "sgd": lambda rate, momentum: optax.sgd(rate, momentum),
}
# Those whose weight decay shrinks kernels beside the step (as in AdamW); else it is in the gradient (PyTorch's SGD).
DECOUPLED = ("adam",)


class Examples(NamedTuple):
    """Rows on the device."""

    features: jax.Array  # float32 (N, D)
    targets: jax.Array  # as `transfer.heads.targets.Targets.array`
    weight: jax.Array | None = None  # float32 (N,), of each row's loss; None: 1

    @classmethod
    def on_device(cls, features: Any, targets: Any, weight: Any = None) -> "Examples":
        """Copies rows of the host to the device; `jnp.asarray` would compile a program for each shape."""
        return jax.device_put(cls(features, targets, weight), may_alias=False)


@dataclasses.dataclass(frozen=True)
class Method:
    """The settings that heads which train side by side have in common."""

    batch_size: int = 256  # rows of a step; the last of an epoch has what is left
    shuffle: bool = True  # False keeps the order of the rows
    kind: str = "classes"  # of targets, a key of `CRITERIA`
    optimiser: str = "adam"  # a key of `OPTIMISERS`
    momentum: float = 0.9  # of "sgd"
    cosine: int | None = None  # epochs over which the learning rate falls to 0, step by step; None: it is constant

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.kind not in CRITERIA:
            raise UsageError(f"kind={self.kind!r} is not one of {', '.join(CRITERIA)}")

    def metrics(self, loss: jax.Array, score: jax.Array, split: str = "") -> Metrics:
        """Loss and score under their names; `split` is "" or "validation_"."""
        return {f"{split}loss": loss, f"{split}{CRITERIA[self.kind].score}": score}


def init_key(seed: ArrayLike) -> jax.Array:
    """Key of a seed's first weights. The shuffles fold an epoch's number into the same seed; this number is none."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))


@functools.partial(jax.jit, static_argnames=("num_features", "num_outputs", "hidden", "initializer", "optimiser"))
def init_state(
    num_features: int, num_outputs: int, key: jax.Array, hidden: tuple, initializer: Initializer, optimiser: str
) -> State:
    """Fresh state of a head with `hidden` units in each hidden layer; `initializer` is of the kernels, biases are 0."""
    keys = jax.random.split(key, len(hidden) + 1) if hidden else [key]

    def layer(i: int) -> Params:
        inputs, outputs = (num_features, *hidden, num_outputs)[i : i + 2]
        kernel = initializer(keys[i], (inputs, outputs), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}

    params = layer(len(hidden)) | {f"hidden{i + 1}": layer(i) for i in range(len(hidden))}
    opt_state = OPTIMISERS[optimiser](0.0, 0.0).init(params)
    return {"params": params, "opt_state": opt_state, "epoch": jnp.zeros((), jnp.int32)}


def all_layers(params: Params) -> list[Params]:
    """The layers in their order, each with its kernel and bias; the last one's are those of `params` itself."""
    return [*(params[f"hidden{i + 1}"] for i in range(len(params) - 2)), params]


def logits(params: Params, features: jax.Array) -> jax.Array:
    """(N, D) float32 -> (N, C) float32. Full precision everywhere: a head is bound by memory, not by arithmetic."""
    product = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    for layer in all_layers(params)[:-1]:
        features = jax.nn.relu(product(features, layer["kernel"]) + layer["bias"])
    return product(features, params["kernel"]) + params["bias"]


# (D, C) kernels, and their moments, to (C, D) and back; vectors and numbers stay as they are.
transpose_tree = functools.partial(jax.tree.map, jnp.transpose)


def scores(class_major: Params, features: jax.Array, dropout: Dropout | None = None) -> jax.Array:
    """Kernels (C, D), biases (C,); (N, D) -> (C, N): `logits`, one column a row."""

    def product(layer: Params, inputs: jax.Array, axis: int) -> jax.Array:
        contracted = (((1,), (axis,)), ((), ()))
        units = jax.lax.dot_general(layer["kernel"], inputs, contracted, precision=jax.lax.Precision.HIGHEST)
        return units + layer["bias"][:, None]

    *hidden, last = all_layers(class_major)
    inputs, axis = features, 1
    for i, layer in enumerate(hidden):
        inputs, axis = jax.nn.relu(product(layer, inputs, axis)), 0
        inputs = inputs if dropout is None else dropout(i, inputs)
    return product(last, inputs, axis)


def dropout_by(rate: ArrayLike, key: jax.Array) -> Dropout:
    """Dropout for `scores`: leaves units out, and scales the others up. Heads side by side draw the same bits."""

    def dropout(i: int, units: jax.Array) -> jax.Array:
        # 16 bits a unit: drawing them is most of what dropout costs
        bits = jax.random.bits(jax.random.fold_in(key, i), units.shape, jnp.uint16).astype(jnp.float32)
        return jnp.where(bits >= rate * 2.0**16, units / (1 - rate), 0)

    return dropout


def stepped(
    params: Params, opt_state: Any, gradients: Params, rate: ArrayLike, weight_decay: ArrayLike | None, method: Method
) -> tuple[Params, Any]:
    """Weights and state of the optimiser after one step."""

    def decayed(tree: Params, by: ArrayLike) -> Params:
        """Kernels of `params` times `by` added to `tree`."""
        return jax.tree.map(lambda leaf, value: leaf + by * value if value.ndim == 2 else leaf, tree, params)

    decoupled = method.optimiser in DECOUPLED
    if weight_decay is not None and not decoupled:
        gradients = decayed(gradients, weight_decay)
    updates, opt_state = OPTIMISERS[method.optimiser](rate, method.momentum).update(gradients, opt_state, params)
    if weight_decay is not None and decoupled:
        updates = decayed(updates, -jnp.multiply(rate, weight_decay))
    return optax.apply_updates(params, updates), opt_state


def train_epoch(
    state: State, index: ArrayLike, seed: ArrayLike, rates: Rates, train: Examples, method: Method
) -> tuple[State, Metrics]:
    """Epoch `index` (from 0): one pass over the rows in an order that (seed, index) alone decide. Pure JAX.

    The last batch keeps its N mod batch_size rows: padded to the one shape and masked, its loss the mean over the
    real ones. With weights that mean is still over the number of rows, as Keras takes it: so the gradient of a batch
    is on average that of all. Loss and score are those of each batch before its step, over all rows, as Keras' `fit`
    reports them.
    """
    key = jax.random.fold_in(jax.random.key(seed), index)
    sums_of = _make_sums(method.kind, train)
    rows, real = _batches(len(train.features), method.batch_size, key if method.shuffle else None)
    steps = jnp.asarray(index) * len(rows) + jnp.arange(len(rows))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(steps) if rates.dropout is not None else None
    share = None
    if method.cosine is not None:  # of the learning rate at each step: PyTorch's `CosineAnnealingLR`
        share = (1 + jnp.cos(jnp.pi * jnp.minimum(steps / (method.cosine * len(rows)), 1))) / 2

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], jax.Array]:
        params, opt_state = carry
        rows, real, share, key = batch
        examples = jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), train)
        dropout = dropout_by(rates.dropout, key) if rates.dropout is not None else None

        def mean_loss(params: Any) -> tuple[jax.Array, jax.Array]:
            sums = sums_of(scores(params, examples.features, dropout), examples.targets, real, examples.weight)
            return sums[0] / real.sum(), sums

        gradients, sums = jax.grad(mean_loss, has_aux=True)(params)
        rate = rates.learning_rate if share is None else rates.learning_rate * share
        return stepped(params, opt_state, gradients, rate, rates.weight_decay, method), sums

    class_major = transpose_tree((state["params"], state["opt_state"]))
    class_major, sums = jax.lax.scan(step, class_major, (rows, real, share, keys))
    params, opt_state = transpose_tree(class_major)
    new_state = {"params": params, "opt_state": opt_state, "epoch": state["epoch"] + 1}
    return new_state, method.metrics(*(sums.sum(axis=0) / len(train.features)))


def _batches(num_rows: int, batch_size: int, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Row numbers and weights (1 real, 0 padding) of every batch, both (steps, batch)."""
    batch_size = min(batch_size, num_rows)
    steps = -(-num_rows // batch_size)
    order = jnp.arange(num_rows) if key is None else jax.random.permutation(key, num_rows)
    order = jnp.pad(order, (0, steps * batch_size - num_rows))
    real = (jnp.arange(steps * batch_size) < num_rows).astype(jnp.float32)
    return order.reshape(steps, batch_size), real.reshape(steps, batch_size)


def _make_sums(kind: str, examples: Examples) -> Callable[..., jax.Array]:
    """The function from class-major scores (..., C, N), targets, `real` (N,) and weights (N,) to two sums, (2, ...).

    They are that of the loss, by weight, and that of each row's part in the score. `examples` are all that there are.
    """
    criterion, variance = CRITERIA[kind], examples.targets.var(axis=0) if kind == "values" else jnp.zeros(())

    def sums(scores: jax.Array, targets: jax.Array, real: jax.Array, weight: jax.Array | None) -> jax.Array:
        losses, parts = criterion.losses(scores, targets), criterion.parts(scores, targets, variance)
        weights = real if weight is None else real * weight
        return jnp.stack([jnp.sum(weights * losses, axis=-1), jnp.sum(real * parts, axis=-1)])

    return sums


def evaluate(params: Params, examples: Examples, kind: str = "classes") -> tuple[jax.Array, jax.Array]:
    """Mean loss and score over all rows. Pure JAX."""
    # the barrier keeps XLA from folding the transposition into the product, which undoes what it is for
    return _evaluate(jax.lax.optimization_barrier(transpose_tree(params)), examples, kind)


def _evaluate(class_major: Params, examples: Examples, kind: str) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones(len(examples.features))
    sums = _make_sums(kind, examples)(scores(class_major, examples.features), examples.targets, ones, examples.weight)
    return sums[0] / len(examples.features), sums[1] / len(examples.features)


# Compiled apart: nothing waits for the second, so that the next epoch may begin beside it.
jitted_epoch = jax.jit(train_epoch, static_argnames="method")
jitted_evaluate = jax.jit(evaluate, static_argnames="kind")


@functools.partial(jax.jit, static_argnames=("epochs", "method"))
def train_all(
    state: State,
    seed: ArrayLike,
    rates: Rates,
    train: Examples,
    validation: Examples | None = None,
    *,
    epochs: int,
    method: Method,
) -> tuple[State, Metrics]:
    """`epochs` epochs, a scan of scans; metrics are (epochs,) each. Pure JAX.

    The heads of several epochs are validated by one product, which reads the rows once for all of them.
    """

    def epoch(state: State, index: jax.Array) -> tuple[State, tuple[Metrics, Params]]:
        state, metrics = train_epoch(state, index, seed, rates, train, method)
        return state, (metrics, transpose_tree(state["params"]) if validation else {})

    def block(state: State, indices: jax.Array) -> tuple[State, Metrics]:
        state, (metrics, class_major) = jax.lax.scan(epoch, state, indices)
        if validation is not None:
            means = jax.vmap(lambda params: _evaluate(params, validation, method.kind))(class_major)
            metrics |= method.metrics(*means, "validation_")
        return state, metrics

    limit = 1
    if validation is not None:
        kernels, num_rows = [layer["kernel"] for layer in all_layers(state["params"])], len(validation.features)
        most = max(kernel.dtype.itemsize * kernel.shape[1] * max(num_rows, kernel.shape[0]) for kernel in kernels)
        limit = max(1, min(MOST_VALIDATED, VALIDATION_BYTES // most))
    size = max(size for size in range(1, limit + 1) if epochs % size == 0)
    state, metrics = jax.lax.scan(block, state, jnp.arange(epochs).reshape(-1, size))
    return state, jax.tree.map(jnp.ravel, metrics)


@functools.partial(jax.jit, static_argnames=("epochs", "method"))
def train_many(state: State, seed: ArrayLike, rates: Rates, train: Examples, *, epochs: int, method: Method) -> Params:
    """The weights (H, ...) of heads that start as `state` and train side by side, each at its own of `rates` (H,).

    They see the same batches, and leave out units by the same bits.
    """

    def head(rates: Rates) -> Params:
        return train_all(state, seed, rates, train, epochs=epochs, method=method)[0]["params"]

    return jax.vmap(head)(rates)
