"""Trains a network, or its upper layers: which, augmentation on the device, SGD or AdamW, a cosine schedule, decay."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from transfer.errors import UsageError
from transfer.models.registry import flat_state, layers_of
from transfer.preprocess import recipe
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime import preemption
from transfer.runtime.progress import Progress
from transfer.training.run import State

LabelledImages = tuple[jax.Array, jax.Array]  # (N, h, w, 3) uint8 (float32 if resized so), labels (N,) int32
BATCH_NORM = ("update", "freeze")
# The arrays of a network in its state; "frozen" is not there where nothing is.
PARTS = ("params", "frozen", "stats")
CLASSIFIER = "logits"
# Names that a line lists at most.
SHOWN = 12


def head_layers(model: nnx.Module) -> frozenset[str]:
    """The new classifier: `logits`, and whatever else `create_model` left random, as the file has no arrays for it."""
    return frozenset({CLASSIFIER, *layers_of(getattr(model, "renewed", ()))})


def trained_layers(model: nnx.Module, unfreeze: str | None) -> frozenset[str]:
    """The layers that `config.unfreeze` leaves to be trained: all for None, else those that it names and the head.

    It has one pattern or several separated by commas, as `fnmatch` has them: "stage4", "stage4.unit3", "block*",
    "block4,block5", "*.bn2". A pattern that matches the path of a layer, or any part of the path from its start, names
    the layer. Raises UsageError for a pattern that matches nothing, with what there is.
    """
    layers = layers_of(flat_state(model))
    if unfreeze is None:
        return frozenset(layers)
    # "a", "a.b" and "a.b.c" of the layer "a.b.c"
    starts = {layer: list(itertools.accumulate(layer.split("."), "{}.{}".format)) for layer in layers}
    trained = set(head_layers(model))
    for pattern in (text.strip() for text in unfreeze.split(",")):
        matched = {layer for layer in layers if any(fnmatchcase(start, pattern) for start in starts[layer])}
        if not matched:
            deepest = max(layers, key=lambda layer: layer.count("."))
            below = f" (and below, such as {deepest})" if "." in deepest else ""
            overview = folded(dict.fromkeys(start for start, *_ in starts.values())) + below
            raise UsageError(f"config.unfreeze={unfreeze!r}: {pattern!r} matches no layer; there is {overview}")
        trained |= matched
    return frozenset(trained)


def folded(names: Iterable[str]) -> str:
    """Names separated by commas; of many the first and the last ones."""
    names = tuple(names)
    if len(names) > SHOWN:
        names = (*names[: SHOWN // 2], f"… {len(names) - SHOWN} more …", *names[-SHOWN // 2 :])
    return ", ".join(names)


def check(settings: ConfigDict) -> None:
    """Raises UsageError for a schedule that cannot be, an optimiser or a way of batch norm that there is not."""
    if settings.warmup_epochs >= settings.epochs:
        raise UsageError(
            f"config.finetune.warmup_epochs={settings.warmup_epochs} must be less than the {settings.epochs} epochs"
        )
    if settings.optimizer not in OPTIMIZERS:
        raise UsageError(f"config.finetune.optimizer={settings.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
    if settings.batch_norm not in BATCH_NORM:
        raise UsageError(f"config.finetune.batch_norm={settings.batch_norm!r} is not one of {', '.join(BATCH_NORM)}")


def make_optimizer(settings: ConfigDict, num_rows: int, head: frozenset[str]) -> optax.GradientTransformation:
    """The optimiser under a linear warm-up and a cosine to zero; decay falls on kernels only, not bias or norm.

    The `settings` are `config.finetune`; an epoch's steps follow from the `num_rows` training images. The layers `head`
    take `head_learning_rate`, all others `learning_rate`.
    """
    check(settings)
    steps = math.ceil(num_rows / settings.batch_size)
    rates = {"backbone": settings.learning_rate, "head": settings.head_learning_rate}
    rates["head"] = rates["backbone"] if rates["head"] is None else rates["head"]

    def optimizer(rate: float) -> optax.GradientTransformation:
        warmup = settings.warmup_epochs * steps
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, settings.epochs * steps)
        return OPTIMIZERS[settings.optimizer](schedule, settings.weight_decay)

    def part_of(path: Any, _: Any) -> str:
        return "head" if ".".join(str(part.key) for part in path[:-1]) in head else "backbone"

    return optax.multi_transform(
        {name: optimizer(rate) for name, rate in rates.items()},
        lambda params: jax.tree_util.tree_map_with_path(part_of, params),
    )


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda array: array.ndim > 1, params)


# From a schedule and the weight decay.
OPTIMIZERS: dict[str, Callable[[optax.Schedule, float], optax.GradientTransformation]] = {
    "sgd": lambda schedule, decay: optax.chain(
        optax.add_decayed_weights(decay, mask=_kernels), optax.sgd(schedule, momentum=0.9, nesterov=True)
    ),
    "adamw": lambda schedule, decay: optax.adamw(schedule, weight_decay=decay, mask=_kernels),
}


def augment(images: jax.Array, key: jax.Array, *, flip: bool, crop: int) -> jax.Array:
    """Mirrors half of the (B, h, w, 3) images; pads by `crop` zeros on each side and cuts the old size at random."""
    flip_key, crop_key = jax.random.split(key)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if crop:
        offsets = jax.random.randint(crop_key, (len(images), 2), 0, 2 * crop + 1)
        padded = jnp.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))

        def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

        images = jax.vmap(cut)(padded, offsets)
    return images


class Network:
    """A model split into what is compiled (two graphs, training and inference) and arrays: trained, frozen, statistics.

    Only the trained ones are differentiated, so that no gradient is computed below the first of them.

    The `model` has its starting weights; `settings` are `config.finetune`. The layers `trained` are trained, None: all.
    `resized` images have the network's size already.
    """

    def __init__(
        self,
        model: nnx.Module,
        preprocessing: Preprocessing,
        settings: ConfigDict,
        num_rows: int,
        *,
        trained: frozenset[str] | None = None,
        resized: bool = False,
    ) -> None:
        self.settings = settings
        self.prepare = partial(recipe.normalise if resized else recipe.apply, preprocessing)
        self.optimizer = make_optimizer(settings, num_rows, head_layers(model))
        layers = trained_layers(model, None) if trained is None else trained
        kinds = (nnx.All(nnx.Param, lambda path, _: _dotted(path[:-1]) in layers), nnx.Param, nnx.BatchStat)
        _set_training(model, layers, settings.batch_norm)
        self._train_graph: Any = nnx.split(model, *kinds)[0]
        model.eval()
        self._eval_graph, *parts = nnx.split(model, *kinds)
        self._parts: dict[str, Any] = dict(zip(PARTS, parts, strict=True))
        self.step = jax.jit(self._step, donate_argnums=0)
        self.evaluate = jax.jit(self._evaluate)

    def init_state(self) -> State:
        """The state before the first epoch: plain dicts of arrays."""
        arrays = {name: nnx.to_pure_dict(part) for name, part in self._parts.items()}
        if not arrays["frozen"]:
            del arrays["frozen"]
        return {**arrays, "opt_state": self.optimizer.init(arrays["params"])}

    def model(self, state: State) -> nnx.Module:
        """The network with the arrays of a state, in inference mode."""
        return self._merge(self._eval_graph, state)

    def _merge(self, graph: Any, arrays: State) -> Any:
        states = []
        for name, template in self._parts.items():
            state = jax.tree.map(lambda leaf: leaf, template)
            nnx.replace_by_pure_dict(state, arrays.get(name, {}))
            states.append(state)
        return nnx.merge(graph, *states)

    def _step(self, state: State, train: LabelledImages, rows: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """One step on the images numbered `rows`; also returns [mean loss, accuracy]."""
        augment_key, dropout_key = jax.random.split(key)
        settings = self.settings
        images = augment(train[0][rows], augment_key, flip=settings.flip, crop=settings.crop)
        x, labels = self.prepare(images), train[1][rows]

        def loss_of(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            model = self._merge(self._train_graph, {**state, "params": params})
            logits, _ = model(x, rngs=nnx.Rngs(dropout=dropout_key))
            targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), settings.label_smoothing)
            loss = optax.softmax_cross_entropy(logits, targets).mean()
            accuracy = (logits.argmax(-1) == labels).mean()
            return loss, (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), jnp.stack([loss, accuracy]))

        gradients, (stats, measured) = jax.grad(loss_of, has_aux=True)(state["params"])
        updates, opt_state = self.optimizer.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {**state, "params": params, "stats": stats, "opt_state": opt_state}, measured

    def _evaluate(
        self, state: State, validation: LabelledImages, rows: jax.Array, real: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[summed loss, right answers] over the images numbered `rows`, weighted by `real`; and their logits (B, C)."""
        x, labels = self.prepare(validation[0][rows]), validation[1][rows]
        logits, _ = self._merge(self._eval_graph, state)(x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([(loss * real).sum(), ((logits.argmax(-1) == labels) * real).sum()]), logits


def _dotted(path: Any) -> str:
    return ".".join(map(str, path))


def _set_training(model: nnx.Module, trained: frozenset[str], batch_norm: str) -> None:
    """Puts dropout into training mode, and of batch norm the trained layers, if their statistics are to move."""
    model.eval()
    for path, module in nnx.iter_modules(model):
        moves = batch_norm == "update" and _dotted(path) in trained
        if isinstance(module, nnx.Dropout) or (isinstance(module, nnx.BatchNorm) and moves):
            module.train()


def make_epoch(
    network: Network, train: LabelledImages, validation: LabelledImages, seed: int
) -> Callable[[State, int], Any]:
    """Returns `epoch(state, index) -> (state, metrics)`, whose randomness comes from (seed, index) alone.

    The steps are a Python loop around one jitted step, not a scan: XLA's CPU backend runs a loop's body on one
    core, and a step of a whole network takes far longer than its dispatch. Images stay on the device. Batch norm
    wants full batches, so the last batch is filled up from the start of the epoch's own shuffle.
    """
    count, size = len(train[1]), network.settings.batch_size
    if count < size:
        raise UsageError(f"config.finetune.batch_size={size} is more than the {count} training images; lower it")

    def epoch(state: State, index: int) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), index)
        order = np.asarray(jax.random.permutation(key, count))
        order = np.resize(order, (math.ceil(count / size), size))
        # The jitted step donates its state; the caller may still hold this one.
        state = jax.tree.map(jnp.copy, state)
        measured = []
        with Progress(f"epoch {index + 1}", count, "images") as progress:
            for step, rows in enumerate(order):
                if preemption.requested():
                    raise preemption.Preempted(
                        "stopped on request; the same command continues after the last whole epoch"
                    )
                state, values = network.step(state, train, rows, jax.random.fold_in(key, step))
                measured.append(values)
                if step % 16 == 15:
                    values.block_until_ready()  # so that the bar tells the truth and the queue stays short
                    progress.update(16 * size)
            values.block_until_ready()
            progress.update(count - progress.count)
        loss, accuracy = jnp.stack(measured).mean(0)
        sums = jnp.stack([sums for sums, _ in _evaluated(network, state, validation)]).sum(0)
        validation_loss, validation_accuracy = sums / len(validation[1])
        return state, {
            "loss": loss,
            "accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
        }

    return epoch


def logits(network: Network, state: State, images: LabelledImages) -> np.ndarray:
    """The network's scores of images: float32 (N, C)."""
    parts = [np.asarray(part, np.float32) for _, part in _evaluated(network, state, images)]
    return np.concatenate(parts)[: len(images[1])]


def _evaluated(network: Network, state: State, images: LabelledImages) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Batch by batch, the last one filled up with its last image: sums over the others, and all logits."""
    count, size = len(images[1]), network.settings.batch_size
    rows = np.arange(math.ceil(count / size) * size).reshape(-1, size)
    for batch in rows:
        yield network.evaluate(state, images, np.minimum(batch, count - 1), (batch < count).astype(np.float32))
