"""Heads that are trained epoch by epoch, as data: a `Program` says in what each differs from the others.

`train.py` drives a program, with checkpoints; the estimators of the same names run all of its epochs at once. The steps
of all of them are those of `transfer.heads.gradient`.
"""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import gradient, targets
from transfer.heads.gradient import Examples, Method, Metrics, Params, Rates, State
from transfer.heads.targets import flat_features

Settings = Mapping[str, Any]

# Rate -> whether a number is in its range, and the range in words.
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda value: 0 < value < np.inf, "above 0"),
    "weight_decay": (lambda value: 0 <= value < np.inf, "0 or more"),
    "dropout": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "momentum": (lambda value: 0 <= value < 1, "from 0 to below 1"),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A head that is trained by gradient steps: its settings, how its kernels begin, and its optimiser.

    Attributes:
        defaults: each setting of the head and its default: `epochs`, `batch_size`, `learning_rate` and `weight_decay`;
            perceptrons have `hidden` and `dropout`, "sgd" has `momentum`.
        initializer: of the kernels; biases begin at zero.
        optimiser: a key of `transfer.heads.gradient.OPTIMISERS`.
        anneals: whether the learning rate falls to 0 along a cosine, step by step, over `epochs`. A run that is to be
            longer is then another run from its first step on.
    """

    defaults: Settings
    initializer: jax.nn.initializers.Initializer = jax.nn.initializers.glorot_uniform()
    optimiser: str = "adam"
    anneals: bool = False

    init_key = staticmethod(gradient.init_key)
    logits = staticmethod(gradient.logits)

    def init_state(self, num_features: int, num_outputs: int, key: jax.Array, **settings: Any) -> State:
        """Fresh state of a head, D features to C outputs: a plain pytree of arrays, as Orbax wants it. Pure JAX.

        Of the settings only `hidden` matters, the units of each hidden layer.
        """
        hidden = checked_hidden(self._complete(settings)["hidden"]) if "hidden" in self.defaults else ()
        return gradient.init_state(num_features, num_outputs, key, hidden, self.initializer, self.optimiser)

    def method(self, settings: Settings, *, shuffle: bool = True, kind: str = "classes") -> Method:
        """The part of the settings that heads have in common where their rates differ."""
        settings = self._complete(settings)
        momentum = settings.get("momentum", 0.9)  # that of Adam is not this one
        cosine = settings["epochs"] if self.anneals else None
        return Method(settings["batch_size"], shuffle, kind, self.optimiser, momentum, cosine)

    def rates(self, settings: Settings) -> Rates:
        """The rates of these settings, without what changes nothing; UsageError as `check`."""
        settings = self._complete(settings)
        self.check(settings)
        optional = (settings.get(name) or None for name in ("weight_decay", "dropout"))
        return Rates(settings["learning_rate"], *optional)

    def check(self, settings: Settings) -> None:
        """Raises UsageError for a rate that is out of its range, and for hidden layers that are none."""
        for name, (in_range, words) in RANGES.items():
            if name in settings and not (isinstance(settings[name], numbers.Real) and in_range(settings[name])):
                raise UsageError(f"{name} must be a number {words}, not {settings[name]!r}")
        if "hidden" in settings:
            checked_hidden(settings["hidden"])

    def make_epoch(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        validation_features: ArrayLike | None = None,
        validation_labels: ArrayLike | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        class_weight: ArrayLike | None = None,
        kind: str = "classes",
        **settings: Any,
    ) -> Callable[[State, int], tuple[State, Metrics]]:
        """Puts the rows on the device once and returns `epoch(state, index) -> (state, metrics)`, jitted.

        Args:
            features: (N, ...) finite numbers, flattened row by row.
            labels: (N,) or (N, 1) whole numbers from 0; see `kind`.
            validation_features, validation_labels: the same; both None: no validation.
            seed: with the index of the epoch it decides the shuffle, so that a resumed run goes on bit for bit.
            shuffle: False keeps the order of the rows.
            class_weight: (C,), the weight of each class in the training loss; None: 1.
            kind: "classes"; "labels": (N, L) of 0 and 1 under a sigmoid each; "values": (N,) or (N, T) numbers under
                half the squared error.
            settings: those of `defaults` that are to be others.

        Metrics are float32 scalars on the device: `loss`, `accuracy` (for values `r2`) and, with validation rows,
        `validation_loss`, `validation_accuracy`; with dropout, `loss` is that of the units which stay. Raises
        TransferError for rows no head can use, UsageError for a bad setting; `epoch` raises TransferError if the state
        is of another width or of another number of outputs.
        """
        method, rates = self.method(settings, shuffle=shuffle, kind=kind), self.rates(settings)
        train = on_device(features, labels, kind, class_weight)
        validation = None
        if validation_features is not None:
            validation = on_device(validation_features, validation_labels, kind, which="validation ")
        of_classes, sides = kind == "classes", [side for side in (train, validation) if side is not None]
        needed = [int(np.asarray(y).max()) + 1 if of_classes else y.shape[1] for _, y, _ in sides]

        def epoch(state: State, index: int) -> tuple[State, Metrics]:
            for side, outputs in zip(sides, needed, strict=True):
                _check_fits(state["params"], side.features.shape[1], outputs, kind)
            state, metrics = gradient.jitted_epoch(state, index, seed, rates, train, method)
            if validation is not None:
                loss, score = gradient.jitted_evaluate(state["params"], validation, kind)
                metrics |= method.metrics(loss, score, "validation_")
            return state, metrics

        return epoch

    def _complete(self, settings: Settings) -> Settings:
        if unknown := [name for name in settings if name not in self.defaults]:
            raise UsageError(f"the head takes no {', '.join(unknown)}; it takes {', '.join(self.defaults)}")
        return {**self.defaults, **settings}


# The published head: Flatten -> Dense -> softmax under Adam, as in the Keras lab that this project carries on
# (`feature_extraction.py`): Glorot-uniform kernel, zero bias, Adam with Keras' defaults, sparse categorical
# cross-entropy, a fresh shuffle each epoch, the last partial batch kept.
LINEAR = Program({"epochs": 50, "batch_size": 256, "learning_rate": 1e-3, "weight_decay": 0.0})

# The linear probe of ImageNet features. So MoCo (`main_lincls.py`: SGD, momentum 0.9, no weight decay, a kernel from a
# normal distribution of deviation 0.01) and DINOv2 (`dinov2/eval/linear.py`: the same, the learning rate annealed to 0
# step by step) train one. Both multiply the learning rate by the rows of a step over 256; here it is that of a step.
SGD = Program(
    {"epochs": 50, "batch_size": 256, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0},
    initializer=jax.nn.initializers.normal(0.01),
    optimiser="sgd",
    anneals=True,
)

# A perceptron with hidden layers, ReLU and dropout: what features hold that no linear head can read.
MLP = Program(
    {"epochs": 50, "hidden": (256,), "batch_size": 256, "learning_rate": 1e-3, "dropout": 0.5, "weight_decay": 0.0}
)

PROGRAMS = {"linear": LINEAR, "sgd": SGD, "mlp": MLP}


def checked_hidden(hidden: Sequence[int]) -> tuple[int, ...]:
    """The units of each hidden layer; UsageError where there is no layer, or one without units."""
    if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not hidden:
        raise UsageError(f"hidden={hidden!r} must be the units of one layer or more, such as (256,)")
    if not all(isinstance(units, int | np.integer) and units > 0 for units in hidden):
        raise UsageError(f"hidden={tuple(hidden)} must be whole numbers of units, each at least 1")
    return tuple(int(units) for units in hidden)


def on_device(
    features: ArrayLike,
    labels: ArrayLike | None,
    kind: str = "classes",
    class_weight: ArrayLike | None = None,
    which: str = "",
) -> Examples:
    """Puts rows on the device, checked; arguments as those of `Program.make_epoch`.

    `which` is what the rows are called in errors, "" or "validation ". Raises RowsError for rows that no head can use,
    UsageError for weights that do not fit.
    """
    x, name = flat_features(features, f"{which}features"), f"{which}labels"
    if kind == "classes":
        y = targets.flat_labels(labels, len(x), name)
        if not targets.are_whole(y):
            raise RowsError(f"{name} must be whole numbers from 0, not {y.dtype}")
        if y.min() < 0 or y.max() >= np.iinfo(np.int32).max:
            raise RowsError(f"{name} run from {y.min():g} to {y.max():g}, but classes are numbered from 0")
        y = y.astype(np.int32)
    else:
        y = targets.of_regressor(labels, len(x), name).array
    if kind == "labels" and not np.isin(y, (0, 1)).all():
        raise RowsError(f"{name} must be 0 or 1, one column a label")
    if class_weight is None:
        return Examples.on_device(x, y)
    if kind != "classes":
        raise UsageError(f"class_weight is for one class a row, not for {kind}")
    by_class = np.asarray(class_weight, np.float32)
    if by_class.ndim != 1 or len(by_class) <= y.max() or not np.all(np.isfinite(by_class) & (by_class >= 0)):
        raise UsageError(f"class_weight must be {y.max() + 1} weights or more, finite and none below 0")
    return Examples.on_device(x, y, by_class[y])


def _check_fits(params: Params, width: int, needed: int, kind: str) -> None:
    taken, outputs = gradient.all_layers(params)[0]["kernel"].shape[0], params["bias"].shape[0]
    if width != taken:
        raise TransferError(f"the head takes {taken} features a row, but rows have {width}")
    if kind == "classes" and needed > outputs:
        raise TransferError(f"labels reach {needed - 1}, but the head has {outputs} classes, from 0")
    if kind != "classes" and needed != outputs:
        raise TransferError(f"the head has {outputs} outputs, but rows have {needed} {kind}")
