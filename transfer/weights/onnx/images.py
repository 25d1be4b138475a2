"""What a graph or a model makes of its images before the first layer: a number times each channel, plus a number."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transfer.models.graph.trace import Node
from transfer.preprocess.recipe import Preprocessing

# Which channels of its images a view has -> what a recipe calls them.
ORDERS = {(0, 1, 2): "rgb", (2, 1, 0): "bgr", (0,): "grey"}
# Numbers that differ by less are the same ones, rounded.
TOLERANCE = 1e-5
# How far apart the least and the greatest value of a channel are that networks take: normalised, or as pixels.
USUAL_WIDTHS = ((0.9, 10.0), (250.0, 260.0))
# The same where nothing is subtracted.
PLAIN_WIDTHS = ((0.999, 1.001), (254.9, 255.1))


@dataclasses.dataclass(frozen=True)
class View:
    """Images as the first layer takes them: `images[channels] * scale + bias`."""

    channels: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, channels: int) -> "View":
        """The images as they are."""
        return cls(np.arange(channels), np.ones(channels), np.zeros(channels))

    @classmethod
    def made_by(cls, preprocessing: Preprocessing, most: int) -> "View":
        """What a preprocessing makes of images of 0..`most` instead of 0..255."""
        std, mean = np.array(preprocessing.std), np.array(preprocessing.mean)
        channels = np.arange(len(mean))[:: -1 if preprocessing.channels == "bgr" else 1]
        return cls(channels, preprocessing.scale * (255 // most) / std, -mean / std)

    def then(self, scale: np.ndarray, bias: np.ndarray) -> "View":
        """The view with each channel times a number, plus a number."""
        return View(self.channels, self.scale * scale, self.bias * scale + bias)

    def picked(self, positions: Sequence[int] | np.ndarray) -> "View":
        """Some of the view's channels, in any order."""
        return View(self.channels[positions], self.scale[positions], self.bias[positions])

    def joined(self, others: Sequence["View"]) -> "View":
        """The view's channels and those of others behind them."""
        columns = zip(*((view.channels, view.scale, view.bias) for view in (self, *others)), strict=True)
        return View(*map(np.concatenate, columns))

    def positions_in(self, other: "View") -> list[int] | None:
        """Which channels of another view this view's are, up to rounding; None where one is none of them."""
        place = {channel: i for i, channel in enumerate(other.channels.tolist())}
        positions = [place[channel] for channel in self.channels.tolist() if channel in place]
        if len(positions) < len(self.channels):
            return None
        same = np.allclose(self.scale, other.scale[positions], TOLERANCE, 0)
        return positions if same and np.allclose(self.bias, other.bias[positions], TOLERANCE, TOLERANCE) else None

    def before(self, own: "View") -> "View":
        """The view that `own` makes this one of."""
        scale, bias = own.scale[self.channels], own.bias[self.channels]
        return View(self.channels, self.scale / scale, (self.bias - bias) / scale)

    def recipe(self, image_size: tuple[int, int]) -> tuple[Preprocessing | None, int]:
        """The preprocessing that the view is of its images, channels as they come, and how large their values get.

        The file says no range; it is the one, 1 or 255, that alone makes what networks take. None where neither does,
        and where channels are missing or doubled.
        """
        channels = ORDERS.get(tuple(sorted(map(int, self.channels))))
        if channels is None or not np.all(self.scale > 0):
            return None, 0
        view = self.picked(np.argsort(self.channels))
        std, mean = (
            tuple(float(f"{number:.7g}") + 0.0 for number in numbers)
            for numbers in (1 / view.scale, np.where(np.abs(view.bias) < TOLERANCE, 0, -view.bias / view.scale))
        )
        for most in (1, 255):
            widths = USUAL_WIDTHS if any(mean) else PLAIN_WIDTHS
            is_usual = any(all(low <= most * scale <= high for scale in view.scale) for low, high in widths)
            if is_usual and min(mean) >= 0 and max(mean) <= most:
                scale = 1.0 if most == 255 else 1 / 255
                return Preprocessing(image_size, channels=channels, scale=scale, mean=mean, std=std), most
        return None, 0

    def recipe_of_pixels(self, image_size: tuple[int, int]) -> tuple[Preprocessing | None, int]:
        """The same of pixels of 0..255, whose order is a part of it."""
        channels = ORDERS.get(tuple(map(int, self.channels)))
        is_finite = np.isfinite(self.bias).all() and np.isfinite(self.scale).all()
        if channels is None or not (is_finite and (self.scale > 0).all()):
            return None, 0
        is_one = len(set(self.scale.tolist())) == 1
        scale, std = (float(self.scale[0]), np.ones(1)) if is_one else (1.0, 1 / self.scale)
        mean = tuple(-self.bias * std)
        return Preprocessing(image_size, channels=channels, scale=scale, mean=mean, std=tuple(std)), 255

    def __str__(self) -> str:
        """The view in numbers."""
        scale, bias = (
            " ".join(f"{number:.4g}" for number in (array[:1] if len(set(array.tolist())) == 1 else array))
            for array in (self.scale, self.bias)
        )
        ordered = np.array_equal(self.channels, np.arange(len(self.channels)))
        order = "" if ordered else f"channels {' '.join(map(str, self.channels))}, "
        return f"{order}images * {scale} + {bias}"


def scale_and_shift(op: str, number: np.ndarray, is_first: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale and the shift that `add`, `sub`, `mul` or `div` with a number is; None for another step.

    `is_first`: the number stands before the values, so that `div` is no scale.
    """
    one, zero = np.ones((), number.dtype), np.zeros((), number.dtype)
    if op in ("mul", "div"):
        return None if op == "div" and is_first else (number if op == "mul" else one / number, zero)
    if op in ("add", "sub"):
        return (-one, number) if op == "sub" and is_first else (one, number if op == "add" else -number)
    return None


def next_view(before: View | None, node: Node, number: np.ndarray | None) -> View | None:
    """What of the images a model's node is that adds or multiplies a `number`; None for any other."""
    if before is None or number is None or np.size(number) not in (1, len(before.channels)):
        return None
    if np.size(number) not in (1, *np.shape(number)[-1:]):
        return None
    number = np.broadcast_to(np.asarray(number, np.float64).reshape(-1), before.scale.shape)
    # whether the number stands before the images
    affine = scale_and_shift(node.op, number, 0 in node.chain[0].constants)
    return affine and before.then(*affine)
