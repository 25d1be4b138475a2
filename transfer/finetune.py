"""Trains a whole network end to end: augmentation on the device, SGD or AdamW, a cosine schedule, weight decay."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from transfer import preprocess
from transfer.errors import UsageError
from transfer.preprocess import Preprocessing
from transfer.progress import Progress
from transfer.training import State

Rows = tuple[jax.Array, jax.Array]  # images (N, h, w, 3) uint8, labels (N,) int32


def make_optimizer(settings: ConfigDict, num_rows: int) -> optax.GradientTransformation:
    """The optimiser under a linear warm-up and a cosine to zero; decay falls on kernels only, not bias or norm."""
    if settings.warmup_epochs >= settings.epochs:
        raise UsageError(
            f"finetune.warmup_epochs={settings.warmup_epochs} must be less than the {settings.epochs} epochs"
        )
    steps = math.ceil(num_rows / settings.batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.warmup_epochs * steps, settings.epochs * steps
    )
    known: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(settings.weight_decay, mask=_kernels),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        ),
        "adamw": lambda: optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_kernels),
    }
    if settings.optimizer not in known:
        raise UsageError(f"finetune.optimizer={settings.optimizer!r} is not one of {', '.join(known)}")
    return known[settings.optimizer]()


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda array: array.ndim > 1, params)


def augment(images: jax.Array, key: jax.Array, *, flip: bool, shift: int) -> jax.Array:
    """Mirrors half of the (B, h, w, 3) uint8 images and moves each by up to `shift` pixels; zeros come in."""
    flip_key, shift_key = jax.random.split(key)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if shift:
        offsets = jax.random.randint(shift_key, (len(images), 2), 0, 2 * shift + 1)
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))

        def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

        images = jax.vmap(cut)(padded, offsets)
    return images


class Network:
    """A model split into what is compiled (two graphs, training and inference) and what is trained (a state)."""

    def __init__(self, model: nnx.Module, preprocessing: Preprocessing, settings: ConfigDict, num_rows: int) -> None:
        self.preprocessing, self.settings = preprocessing, settings
        self.optimizer = make_optimizer(settings, num_rows)
        model.train()
        self._train_graph: Any = nnx.split(model, nnx.Param, nnx.BatchStat)[0]
        model.eval()
        parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat)
        self._eval_graph, self._params, self._stats = parts
        self.step = jax.jit(self._step, donate_argnums=0)
        self.evaluate = jax.jit(self._evaluate)

    def init_state(self) -> State:
        """The state before the first epoch: plain dicts of arrays."""
        params, stats = nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._stats)
        return {"params": params, "stats": stats, "opt_state": self.optimizer.init(params)}

    def model(self, weights: State) -> nnx.Module:
        """The network with trained weights, in inference mode."""
        return self._merge(self._eval_graph, weights["params"], weights["stats"])

    def _merge(self, graph: Any, params: Any, stats: Any) -> Any:
        states = []
        for template, values in ((self._params, params), (self._stats, stats)):
            state = jax.tree.map(lambda leaf: leaf, template)
            nnx.replace_by_pure_dict(state, values)
            states.append(state)
        return nnx.merge(graph, *states)

    def _step(self, state: State, train: Rows, rows: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """One step on the images numbered `rows`; also returns [mean loss, accuracy]."""
        augment_key, dropout_key = jax.random.split(key)
        settings = self.settings
        images = augment(train[0][rows], augment_key, flip=settings.flip, shift=settings.shift)
        x, labels = preprocess.apply(self.preprocessing, images), train[1][rows]

        def loss_of(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            model = self._merge(self._train_graph, params, state["stats"])
            logits, _ = model(x, rngs=nnx.Rngs(dropout=dropout_key))
            targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), settings.label_smoothing)
            loss = optax.softmax_cross_entropy(logits, targets).mean()
            accuracy = (logits.argmax(-1) == labels).mean()
            return loss, (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), jnp.stack([loss, accuracy]))

        gradients, (stats, measured) = jax.grad(loss_of, has_aux=True)(state["params"])
        updates, opt_state = self.optimizer.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "stats": stats, "opt_state": opt_state}, measured

    def _evaluate(self, state: State, validation: Rows, rows: jax.Array, real: jax.Array) -> jax.Array:
        """[summed loss, right answers] over the images numbered `rows`, weighted by `real`."""
        x, labels = preprocess.apply(self.preprocessing, validation[0][rows]), validation[1][rows]
        logits, _ = self._merge(self._eval_graph, state["params"], state["stats"])(x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([(loss * real).sum(), ((logits.argmax(-1) == labels) * real).sum()])


def make_epoch(network: Network, train: Rows, validation: Rows, seed: int) -> Callable[[State, int], Any]:
    """Returns `epoch(state, index) -> (state, metrics)`, whose randomness comes from (seed, index) alone.

    The steps are a Python loop around one jitted step, not a scan: XLA's CPU backend runs a loop's body on one
    core, and a step of a whole network takes far longer than its dispatch. Images stay on the device. Batch norm
    wants full batches, so the last batch is filled up from the start of the epoch's own shuffle.
    """
    count, size = len(train[1]), network.settings.batch_size
    if count < size:
        raise UsageError(f"finetune.batch_size={size} is more than the {count} training images; lower it")

    def epoch(state: State, index: int) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), index)
        order = np.asarray(jax.random.permutation(key, count))
        order = np.resize(order, (math.ceil(count / size), size))
        # The jitted step donates its state; the caller may still hold this one.
        state = jax.tree.map(jnp.copy, {k: state[k] for k in ("params", "stats", "opt_state")})
        measured = []
        with Progress(f"epoch {index + 1}", count, "images") as progress:
            for step, rows in enumerate(order):
                state, values = network.step(state, train, rows, jax.random.fold_in(key, step))
                measured.append(values)
                if step % 16 == 15:
                    values.block_until_ready()  # so that the bar tells the truth and the queue stays short
                    progress.update(16 * size)
            values.block_until_ready()
            progress.update(count - progress.count)
        loss, accuracy = jnp.stack(measured).mean(0)
        validation_loss, validation_accuracy = _evaluate(network, state, validation)
        return state, {
            "loss": loss,
            "accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
        }

    return epoch


def _evaluate(network: Network, state: State, validation: Rows) -> jax.Array:
    count, size = len(validation[1]), network.settings.batch_size
    rows = np.arange(math.ceil(count / size) * size).reshape(-1, size)
    real = (rows < count).astype(np.float32)
    sums = [network.evaluate(state, validation, np.minimum(r, count - 1), w) for r, w in zip(rows, real, strict=True)]
    return jnp.stack(sums).sum(0) / count
