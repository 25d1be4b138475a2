"""Heads that are trained by steps along the gradient, linear ones and perceptrons: one program whose epoch is a scan.

Rows stay on the device and are arguments of the program, never constants in it; so are the learning rate, the weight
decay and the share of dropout, so that heads that differ in these train side by side under `vmap`. Of linear heads
that read the same batches the scores of all are one product.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import targets
from transfer.heads.criteria import CRITERIA
from transfer.heads.layers import Params, dropping, hidden_layers, init_params, scores, turned
from transfer.heads.optimisers import OPTIMISERS, Rates, cosine, stepped
from transfer.heads.rows import class_indices, flat_features

# {"params": Params, "opt_state": optax's own, "epoch": int32, epochs done so far}
State = dict[str, Any]
Metrics = dict[str, jax.Array]

# Epochs whose heads are validated by one product hold at most so many bytes of scores, or of kernels.
VALIDATION_BYTES = 8 << 20
MOST_VALIDATED = 16


class Rows(NamedTuple):
    """Rows on the device.

    Attributes:
        features: float32 (N, D).
        targets: as `transfer.heads.targets.Targets.array`.
        weight: float32 (N,), of each row's loss; None: 1.
    """

    features: jax.Array
    targets: jax.Array
    weight: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """What heads of one program have in common.

    Attributes:
        batch_size: rows of a step; the last of an epoch has what is left.
        shuffle: False keeps the order of the rows.
        kind: of targets, a key of `CRITERIA`.
        optimiser: a key of `OPTIMISERS`.
        momentum: of "sgd".
        cosine: epochs over which the learning rate falls to 0 along a cosine, step by step; None: it is constant.
    """

    batch_size: int = 256
    shuffle: bool = True
    kind: str = "classes"
    optimiser: str = "adam"
    momentum: float = 0.9
    cosine: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.kind not in CRITERIA:
            raise UsageError(f"kind={self.kind!r} is not one of {', '.join(CRITERIA)}")

    @property
    def score(self) -> str:
        """The metric that says how good a head is."""
        return CRITERIA[self.kind].score


def init_state(
    num_features: int,
    num_outputs: int,
    key: jax.Array,
    *,
    hidden: tuple[int, ...] = (),
    initializer: jax.nn.initializers.Initializer | None = None,
    optimiser: str = "adam",
) -> State:
    """Fresh state of a head: a plain pytree of arrays, as Orbax wants it. Pure JAX.

    Args:
        num_features, num_outputs: D and C.
        key: of the kernels; biases are zero.
        hidden: units of each hidden layer.
        initializer: of the kernels; None: Glorot's uniform one.
        optimiser: a key of `OPTIMISERS`.
    """
    params = init_params(num_features, num_outputs, key, hidden, initializer)
    opt_state = OPTIMISERS[optimiser].of(0.0, 0.0).init(params)
    return {"params": params, "opt_state": opt_state, "epoch": jnp.zeros((), jnp.int32)}


def train_epoch(
    state: State, rows: Rows, key: jax.Array, rates: Rates, method: Method, index: ArrayLike = 0
) -> tuple[State, Metrics]:
    """One pass over `rows` in the order that `key` shuffles them into. Pure JAX.

    The last batch keeps its N mod batch_size rows: padded to the one shape and masked, its loss the mean over the
    real ones. With weights that mean is still over the number of rows, as Keras takes it: so the gradient of a batch
    is on average that of all. Loss and score are those of each batch before its step, over all rows, as Keras' `fit`
    reports them. `index` counts epochs from 0, for the schedule.
    """
    weighted = _sums(method.kind, rows)
    taken, real = _batches(len(rows.features), method.batch_size, key if method.shuffle else None)
    steps = jnp.asarray(index) * len(taken) + jnp.arange(len(taken))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(steps) if rates.dropout is not None else None
    share = cosine(steps, method.cosine * len(taken)) if method.cosine is not None else None

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], jax.Array]:
        params, opt_state = carry
        taken, real, share, key = batch
        own = jax.tree.map(lambda array: array.at[taken].get(mode="promise_in_bounds"), rows)
        drop = dropping(rates.dropout, key) if rates.dropout is not None else None

        def mean_loss(params: Any) -> tuple[jax.Array, jax.Array]:
            sums = weighted(scores(params, own.features, drop), own.targets, real, own.weight)
            return sums[0] / real.sum(), sums

        gradients, sums = jax.grad(mean_loss, has_aux=True)(params)
        rate = rates.learning_rate if share is None else rates.learning_rate * share
        params, opt_state = stepped(
            method.optimiser, params, opt_state, gradients, rate, method.momentum, rates.weight_decay
        )
        return (params, opt_state), sums

    upright, sums = jax.lax.scan(step, turned((state["params"], state["opt_state"])), (taken, real, share, keys))
    params, opt_state = turned(upright)
    loss, score = sums.sum(axis=0) / len(rows.features)
    new_state = {"params": params, "opt_state": opt_state, "epoch": state["epoch"] + 1}
    return new_state, {"loss": loss, method.score: score}


def _batches(num_rows: int, batch_size: int, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Row numbers and weights (1 real, 0 padding) of every batch, both (steps, batch)."""
    batch_size = min(batch_size, num_rows)
    steps = -(-num_rows // batch_size)
    order = jnp.arange(num_rows) if key is None else jax.random.permutation(key, num_rows)
    order = jnp.pad(order, (0, steps * batch_size - num_rows))
    real = (jnp.arange(steps * batch_size) < num_rows).astype(jnp.float32)
    return order.reshape(steps, batch_size), real.reshape(steps, batch_size)


def _sums(kind: str, rows: Rows) -> Callable[..., jax.Array]:
    """The function from upright scores (..., C, N), targets, `real` (N,) and weights (N,) to two sums, (2, ...).

    They are that of the loss, by weight, and that of each row's part in the score. `rows` are all that there are.
    """
    criterion, variance = CRITERIA[kind], rows.targets.var(axis=0) if kind == "values" else jnp.zeros(())

    def sums(upright: jax.Array, targets: jax.Array, real: jax.Array, weight: jax.Array | None) -> jax.Array:
        losses, parts = criterion.losses(upright, targets), criterion.parts(upright, targets, variance)
        by = real if weight is None else real * weight
        return jnp.stack([jnp.sum(by * losses, axis=-1), jnp.sum(real * parts, axis=-1)])

    return sums


def evaluate(params: Params, rows: Rows, kind: str = "classes") -> tuple[jax.Array, jax.Array]:
    """Mean loss and score over all rows. Pure JAX."""
    # the barrier keeps XLA from folding the transposition into the product, which undoes what it is for
    return _evaluate(jax.lax.optimization_barrier(turned(params)), rows, kind)


def _evaluate(upright: Params, rows: Rows, kind: str) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones(len(rows.features))
    loss, right = _sums(kind, rows)(scores(upright, rows.features), rows.targets, ones, rows.weight)
    return loss / len(rows.features), right / len(rows.features)


def epoch_with_validation(
    state: State, index: ArrayLike, seed: ArrayLike, rates: Rates, train: Rows, validation: Rows | None, method: Method
) -> tuple[State, Metrics]:
    """Epoch `index` (from 0), then the validation rows. Its shuffle depends on (seed, index) alone. Pure JAX."""
    key = jax.random.fold_in(jax.random.key(seed), index)
    state, metrics = train_epoch(state, train, key, rates, method, index)
    if validation is not None:
        metrics |= _validation_metrics(method, *evaluate(state["params"], validation, method.kind))
    return state, metrics


def _validation_metrics(method: Method, loss: jax.Array, score: jax.Array) -> Metrics:
    return {"validation_loss": loss, f"validation_{method.score}": score}


def run(
    state: State,
    seed: ArrayLike,
    rates: Rates,
    train: Rows,
    validation: Rows | None,
    *,
    epochs: int,
    method: Method,
) -> tuple[State, Metrics]:
    """`epochs` epochs, a scan of scans; metrics are (epochs,) each. Pure JAX.

    The heads of several epochs are validated by one product, which reads the rows once for all of them.
    """

    def epoch(state: State, index: jax.Array) -> tuple[State, tuple[Metrics, Params]]:
        state, metrics = epoch_with_validation(state, index, seed, rates, train, None, method)
        return state, (metrics, turned(state["params"]) if validation else {})

    def block(state: State, indices: jax.Array) -> tuple[State, Metrics]:
        state, (metrics, upright) = jax.lax.scan(epoch, state, indices)
        if validation is not None:
            found = jax.vmap(lambda one: _evaluate(one, validation, method.kind))(upright)
            metrics |= _validation_metrics(method, *found)
        return state, metrics

    size = 1 if validation is None else _validated_at_once(epochs, state["params"], len(validation.features))
    state, metrics = jax.lax.scan(block, state, jnp.arange(epochs).reshape(-1, size))
    return state, jax.tree.map(jnp.ravel, metrics)


def _validated_at_once(epochs: int, params: Params, num_rows: int) -> int:
    """The largest divisor of `epochs` within the limits."""
    kernels = [layer["kernel"] for layer in (*hidden_layers(params), params)]
    most = max(kernel.dtype.itemsize * kernel.shape[1] * max(num_rows, kernel.shape[0]) for kernel in kernels)
    limit = min(MOST_VALIDATED, VALIDATION_BYTES // most)
    return max(size for size in range(1, max(limit, 1) + 1) if epochs % size == 0)


train_all = jax.jit(run, static_argnames=("epochs", "method"))


@functools.partial(jax.jit, static_argnames=("epochs", "method"))
def train_many(state: State, seed: ArrayLike, rates: Rates, train: Rows, *, epochs: int, method: Method) -> Params:
    """The weights (H, ...) of heads that start as `state` and train side by side, each at its own of `rates` (H,).

    They see the same batches, and leave out units by the same bits.
    """
    axes: Any = Rates(*(None if rate is None else 0 for rate in rates))  # type: ignore[arg-type]

    def one(own: Rates) -> Params:
        return run(state, seed, own, train, None, epochs=epochs, method=method)[0]["params"]

    return jax.vmap(one, in_axes=(axes,))(rates)


_jitted_epoch = jax.jit(epoch_with_validation, static_argnames="method")
# A program of its own: nothing waits for it, so that the next epoch may begin beside it.
_jitted_evaluate = jax.jit(evaluate, static_argnames="kind")


def make_epoch(
    train: Rows, validation: Rows | None, rates: Rates, method: Method, seed: int
) -> Callable[[State, int], tuple[State, Metrics]]:
    """Returns `epoch(state, index) -> (state, metrics)`, jitted, on rows that are on the device.

    `epoch` raises TransferError if the state is of another width, or of another number of outputs.
    """
    shapes = [(rows.features.shape[1], _outputs(rows, method.kind)) for rows in (train, validation) if rows is not None]

    def epoch(state: State, index: int) -> tuple[State, Metrics]:
        for width, needed in shapes:
            _check_fits(state["params"], width, needed, method.kind)
        state, metrics = _jitted_epoch(state, index, seed, rates, train, None, method)
        if validation is not None:
            metrics |= _validation_metrics(method, *_jitted_evaluate(state["params"], validation, method.kind))
        return state, metrics

    return epoch


def _outputs(rows: Rows, kind: str) -> int:
    """How many outputs a head needs for the rows' targets."""
    return int(np.asarray(rows.targets).max()) + 1 if kind == "classes" else rows.targets.shape[1]


def _check_fits(params: Params, width: int, needed: int, kind: str) -> None:
    taken, outputs = (*hidden_layers(params), params)[0]["kernel"].shape[0], params["bias"].shape[0]
    if width != taken:
        raise TransferError(f"the head takes {taken} features a row, but rows have {width}")
    if kind == "classes" and needed > outputs:
        raise TransferError(f"labels reach {needed - 1}, but the head has {outputs} classes, from 0")
    if kind != "classes" and needed != outputs:
        raise TransferError(f"the head has {outputs} outputs, but rows have {needed} {kind}")


def on_device(
    features: ArrayLike,
    labels: ArrayLike | None,
    kind: str = "classes",
    class_weight: ArrayLike | None = None,
    which: str = "",
) -> Rows:
    """Puts rows on the device, checked.

    Args:
        features: (N, ...) finite numbers, flattened row by row.
        labels: (N,) or (N, 1) whole numbers from 0; for "labels" (N, L) of 0 and 1, for "values" (N,) or (N, T).
        kind: of the targets.
        class_weight: (C,) weights of the classes; None: no row has a weight.
        which: what the rows are called in errors, "" or "validation ".

    Raises RowsError for rows that no head can use, UsageError for weights that do not fit.
    """
    x = flat_features(features, f"{which}features")
    name = f"{which}labels"
    if kind == "classes":
        aimed = class_indices(labels, len(x), np.iinfo(np.int32).max, name)
    else:
        aimed = targets.of_regressor(labels, len(x), name).array
    if kind == "labels" and not np.isin(aimed, (0, 1)).all():
        raise RowsError(f"{name} must be 0 or 1, one column a label")
    return Rows(jnp.asarray(x), jnp.asarray(aimed), _row_weights(class_weight, kind, aimed))


def split(
    features: ArrayLike,
    labels: ArrayLike | None,
    validation_features: ArrayLike | None,
    validation_labels: ArrayLike | None,
    kind: str,
    class_weight: ArrayLike | None,
) -> tuple[Rows, Rows | None]:
    """Rows to train on and rows to validate on, whose classes have no weights; see `on_device`."""
    train = on_device(features, labels, kind, class_weight)
    if validation_features is None:
        return train, None
    return train, on_device(validation_features, validation_labels, kind, which="validation ")


def _row_weights(class_weight: ArrayLike | None, kind: str, classes: np.ndarray) -> jax.Array | None:
    if class_weight is None:
        return None
    if kind != "classes":
        raise UsageError(f"class_weight is for one class a row, not for {kind}")
    weights = np.asarray(class_weight, np.float32)
    if weights.ndim != 1 or len(weights) <= classes.max() or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UsageError(f"class_weight must be {classes.max() + 1} weights or more, finite and none below 0")
    return jnp.asarray(weights[classes])
