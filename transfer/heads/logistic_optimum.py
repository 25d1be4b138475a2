"""The optimum of regularised logistic regression for many penalties: L-BFGS, each begun where its neighbours lead.

The objective is scikit-learn's: the loss summed over rows, times their weights, + penalty / 2 |kernel|^2 with
penalty = 1 / C; the bias is free. Three things make a path of 45 penalties cost little more than a few of its points:

* Rows are centred and turned onto their principal axes, min(N, D) of them, and a step along each is scaled by the
  curvature at the start, so that L-BFGS sees a problem near the identity whatever the features' scale.
* A coarse row of penalties is solved one after another, from the strongest, each from the line through the two
  before it; the penalties between start from a cubic through their neighbours, several in one product.
* Margins are linear in the step, so a step costs two products of the rows with the kernel, whatever the line search
  tries: it looks at derivatives alone, which float32 resolves where it no longer resolves the objective.

Pure JAX but for the order, which is made of the penalties on the host.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

HIGHEST = jax.lax.Precision.HIGHEST
# Rows are turned where the axes to find are at most so many: what finding them takes grows with the cube.
MOST_TURNED = 1024
MEMORY = 10  # pairs of L-BFGS
# Steps after which a head is looked at for what it still gains, and the share of the tolerance that a step must gain.
SETTLED, LEAST_GAIN = 8, 1e-3
SMALL_OBJECTIVE = 0.01  # below so much a row the tolerance is relative
SLOPE_LEFT = 0.3  # share of the slope that a line search may leave
MOST_TRIALS = 10


class Optima(NamedTuple):
    """H heads at their optimum.

    Attributes:
        kernel: float32 (H, D, C).
        bias: float32 (H, C).
        excess: float32 (H,), a bound on how far the mean loss of each is above its optimum: by the penalty's
            strong convexity, |gradient|^2 / (2 penalty). Loose for weak penalties.
        steps: int32 (H,) of L-BFGS.
    """

    kernel: jax.Array
    bias: jax.Array
    excess: jax.Array
    steps: jax.Array


class Problem(NamedTuple):
    """What the heads have in common.

    Attributes:
        rows: float32 (N, K + 1): along K axes, then a constant, which is the bias's.
        wide: float32 (C, N), 0 or 1.
        weight: float32 (N,), of each row's loss.
        curvature: float32 (C, K + 1): second derivatives at the start, less the penalty.
    """

    rows: jax.Array
    wide: jax.Array
    weight: jax.Array
    curvature: jax.Array


class Place(NamedTuple):
    """Where some heads, solved side by side, stand among all: the strongest penalty is first.

    Attributes:
        where: int (G,).
        lead: float32 (G, H + 1): what of each head the start is made of; the last is the start from nothing.
    """

    where: np.ndarray
    lead: np.ndarray


def optima(
    x: ArrayLike,
    wide: ArrayLike,
    kind: str,
    penalties: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    tolerance: float = 1e-5,
    most_steps: int = 1000,
) -> Optima:
    """Minimises sum over rows of weight * loss + penalty / 2 |kernel|^2 for each of H penalties.

    Args:
        x: (N, D) finite numbers.
        wide: (N, C) of 0 and 1. For two classes one column, the second class's, with kind "labels", is
            scikit-learn's objective; two columns would be penalised half as much.
        kind: "classes", a softmax over columns, or "labels", a sigmoid for each.
        penalties: (H,), above 0, in any order.
        weight: (N,) of each row, none below 0; None: 1.
        tolerance: of the mean loss, and a share of the objective where that is small (`SMALL_OBJECTIVE`). A head is
            done when its `excess` is below, or when a step gains next to nothing.
        most_steps: of L-BFGS for each head.

    Holds N x C floats a few times for each head that is solved side by side, which are as many as `WIDTH_BYTES`
    allows, and once the turned rows.
    """
    num_features = np.shape(x)[1]
    x, wide, weight = padded(x, wide, weight)
    distinct, where = np.unique(-np.asarray(penalties, np.float32), return_inverse=True)  # the strongest first
    problem, start, back = prepare(x, wide, weight, kind=kind, turned=min(x.shape) <= MOST_TURNED)
    chain, between = order(-distinct, most_side_by_side(len(wide), *problem.rows.shape))
    scaled = jnp.clip(-distinct * back.size**-2, 1e-30, 1e30)
    found = path(problem, start, scaled, chain, between, tolerance, kind=kind, most_steps=most_steps)
    kernel, bias = returned(found[0], back)
    return Optima(kernel[where, :num_features], bias[where], found[1][where], found[2][where])


# What the scores of heads that are solved side by side may take, with what goes with them.
WIDTH_BYTES = 256 << 20
SIDE_BY_SIDE = 11
# Of so many penalties one is on the chain.
SPACING = 4

# Fewer rows and columns than these are made up to a power of two, so that small problems share a compilation.
SMALL_ROWS, SMALL_COLUMNS = 512, 64


def padded(x: ArrayLike, wide: ArrayLike, weight: ArrayLike | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows (N', D'), wide (C, N') and weight (N',): small problems with rows of no weight and columns of zeros."""
    x, wide = jnp.asarray(x, jnp.float32), jnp.asarray(wide, jnp.float32).T
    weight = jnp.ones(len(x), jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32)
    rows, columns = (
        0 if size > small else (1 << max(size - 1, least - 1).bit_length()) - size
        for size, small, least in zip(x.shape, (SMALL_ROWS, SMALL_COLUMNS), (32, 8), strict=True)
    )
    if rows:
        x, wide = jnp.pad(x, ((0, rows), (0, 0)), "edge"), jnp.pad(wide, ((0, 0), (0, rows)), "edge")
        weight = jnp.pad(weight, (0, rows))
    return (jnp.pad(x, ((0, 0), (0, columns))) if columns else x), wide, weight


def most_side_by_side(num_columns: int, num_rows: int, num_axes: int) -> int:
    """How many heads `WIDTH_BYTES` allow."""
    one = 4 * num_columns * (6 * num_rows + (2 * MEMORY + 6) * num_axes)
    return int(np.clip(WIDTH_BYTES // one, 1, SIDE_BY_SIDE))


def order(penalties: np.ndarray, width: int) -> tuple[Place, Place | None]:
    """Which of H penalties, falling, are solved when: one after another (S, 1), then side by side (G, width).

    Starts are polynomials in the penalties' logarithm.
    """
    count = len(penalties)
    logs = np.log(penalties.astype(np.float64))
    coarse = np.unique(np.append(np.arange(0, count, SPACING), count - 1))
    lead = np.zeros((len(coarse), 1, count + 1), np.float32)
    for row, position in enumerate(coarse):
        nodes = coarse[max(row - 2, 0) : row]
        if len(nodes) == 0:
            lead[row, 0, -1] = 1
        lead[row, 0, nodes] = _lagrange(logs[nodes], logs[position])
    chain = Place(coarse[:, None], lead)
    rest = np.setdiff1d(np.arange(count), coarse)
    if len(rest) == 0:
        return chain, None
    groups = -(-len(rest) // width)
    width = -(-len(rest) // groups)
    rest = np.append(rest, np.repeat(rest[-1], groups * width - len(rest)))
    lead = np.zeros((len(rest), count + 1), np.float32)
    for row, position in enumerate(rest):
        nearest = np.sort(np.argsort(np.abs(logs[coarse] - logs[position]), kind="stable")[:4])
        lead[row, coarse[nearest]] = _lagrange(logs[coarse[nearest]], logs[position])
    return chain, Place(rest.reshape(groups, width), lead.reshape(groups, width, -1))


def _lagrange(nodes: np.ndarray, at: float) -> np.ndarray:
    """Shares of the values at `nodes` (n,) in the polynomial through them at `at`: (n,)."""
    others = ~np.eye(len(nodes), dtype=bool)
    distance = np.where(others, nodes[:, None] - nodes, 1)
    return np.prod(np.where(others, (at - nodes) / distance, 1), axis=1)


class Back(NamedTuple):
    """The way back to the features: their centre (D,), size () and axes (D, K), or None; the bias's constant ()."""

    centre: jax.Array
    size: jax.Array
    axes: jax.Array | None
    constant: jax.Array


@functools.partial(jax.jit, static_argnames=("kind", "turned"))
def prepare(
    x: jax.Array, wide: jax.Array, weight: jax.Array, *, kind: str, turned: bool
) -> tuple[Problem, jax.Array, Back]:
    """Also returns the start from nothing, float32 (C, K + 1): kernels of zero, biases of the classes' shares."""
    total = weight.sum()
    first = x[0]  # taken off before the mean, which then is exact for a column that does not vary
    centre = first + weight @ (x - first) / total
    rows = x - centre
    size = jnp.maximum(jnp.abs(rows).max(), 1e-30)
    rows, axes = rows / size, None
    if turned:
        if x.shape[0] < x.shape[1]:
            axes, upper = jnp.linalg.qr(rows.T)
            rows = upper.T
        spectrum, inner = jnp.linalg.eigh(jnp.dot(rows.T * weight, rows, precision=HIGHEST))
        rows = jnp.dot(rows, inner, precision=HIGHEST)
        axes = inner if axes is None else jnp.dot(axes, inner, precision=HIGHEST)
        spectrum = jnp.maximum(spectrum, 0)
    else:
        spectrum = weight @ rows**2
    square = spectrum.mean() / total
    constant = jnp.sqrt(jnp.where(square > 0, square, 1))  # the bias is a kernel's value as large as any
    rows = jnp.concatenate([rows, jnp.full((len(x), 1), constant)], axis=1)
    share = jnp.clip(wide @ weight / total, 1e-6, 1 - 1e-6)
    bias = jnp.log(share) if kind == "classes" else jnp.log(share / (1 - share))
    curvature = (share * (1 - share))[:, None] * jnp.append(spectrum, constant**2 * total)
    start = jnp.zeros_like(curvature).at[:, -1].set(bias / constant)
    return Problem(rows, wide, weight, curvature), start, Back(centre, size, axes, constant)


@jax.jit
def returned(found: jax.Array, back: Back) -> tuple[jax.Array, jax.Array]:
    """(H, C, K + 1) along the axes -> kernels (H, D, C) and biases (H, C) of the features as they were given."""
    kernel, bias = found[..., :-1] / back.size, found[..., -1] * back.constant
    if back.axes is not None:
        kernel = jnp.einsum("hck,dk->hcd", kernel, back.axes, precision=HIGHEST)
    bias = bias - jnp.einsum("hcd,d->hc", kernel, back.centre, precision=HIGHEST)
    return kernel.swapaxes(1, 2), bias


@functools.partial(jax.jit, static_argnames=("kind", "most_steps"))
def path(
    problem: Problem,
    start: jax.Array,
    penalties: jax.Array,
    chain: Place,
    between: Place | None,
    tolerance: float,
    *,
    kind: str,
    most_steps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Kernels (H, C, K + 1) along the axes, excess (H,) and steps (H,), of penalties (H,), the strongest first."""

    def solve(carry: tuple, place: Place) -> tuple[tuple, None]:
        found, excess, steps = carry
        begun = jnp.einsum("gh,hck->gck", place.lead, found, precision=HIGHEST)
        solved = _descend(problem, kind, penalties[place.where], begun, tolerance, most_steps)
        carry = (found, excess, steps)
        return tuple(of_all.at[place.where].set(one) for of_all, one in zip(carry, solved, strict=True)), None

    count = len(penalties)
    carry = (jnp.broadcast_to(start, (count + 1, *start.shape)), jnp.zeros(count), jnp.zeros(count, jnp.int32))
    for places in (chain, between):
        if places is not None:
            carry, _ = jax.lax.scan(solve, carry, places)
    return carry[0][:-1], carry[1], carry[2]


class _Line(NamedTuple):
    """Heads along a direction: what the slope at a step is made of."""

    margins: jax.Array  # (G, C, N) at step 0
    ahead: jax.Array  # (G, C, N) added at step 1
    slope: jax.Array  # (G,) of the penalty at step 0
    bend: jax.Array  # (G,) of the penalty


# What follows counts by what is wrong: a column leads what is right by its margin, and has a probability that float32
# holds exactly when it is small, as the right one's distance from 1 is not. Weak penalties need it.
#
# Sums over columns are of `where`, not of products: XLA's CPU compiler makes matrix products of those, one for each
# row, which are 20 times slower.


def _margins(problem: Problem, kind: str, scores: jax.Array) -> jax.Array:
    """(G, C, N): by how much each column leads the row's class, or each label what is right of it; linear."""
    if kind == "classes":
        return scores - jnp.sum(jnp.where(problem.wide > 0, scores, 0), axis=1, keepdims=True)
    return jnp.where(problem.wide > 0, -scores, scores)


def _wrong(problem: Problem, kind: str, margins: jax.Array) -> jax.Array:
    """(G, C, N): the probability of what is wrong, 0 where a column is the row's class."""
    if kind == "classes":
        return jnp.where(problem.wide > 0, 0, jax.nn.softmax(margins, axis=1))
    return jax.nn.sigmoid(margins)


def _residual(problem: Problem, kind: str, wrong: jax.Array) -> jax.Array:
    """(G, C, N): derivative of the loss by the scores."""
    against = jnp.sum(wrong, axis=1, keepdims=True) if kind == "classes" else wrong
    return jnp.where(problem.wide > 0, -against, wrong) * problem.weight


def _loss(problem: Problem, kind: str, wrong: jax.Array) -> jax.Array:
    """(G,): summed over rows."""
    if kind == "classes":
        wrong = jnp.sum(wrong, axis=1, keepdims=True)
    return -jnp.sum(jnp.log1p(-jnp.minimum(wrong, 1 - 1e-6)) * problem.weight, axis=(1, 2))


def _look(problem: Problem, kind: str, line: _Line, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """First and second derivative along the line at `step` (G,), and what is wrong (G, C, N) there."""
    wrong = _wrong(problem, kind, line.margins + step[:, None, None] * line.ahead)
    if kind == "classes":
        right = problem.wide > 0
        slopes = jnp.sum(jnp.where(right, 0, wrong * line.ahead), axis=1)
        bends = jnp.sum(jnp.where(right, 0, wrong * line.ahead**2), axis=1) - slopes**2
        slope, bend = (jnp.sum(of_rows * problem.weight, axis=1) for of_rows in (slopes, bends))
    else:
        pull = wrong * line.ahead * problem.weight
        slope, bend = jnp.sum(pull, axis=(1, 2)), jnp.sum(pull * (1 - wrong) * line.ahead, axis=(1, 2))
    return slope + line.slope + step * line.bend, bend + line.bend, wrong


def _search(
    problem: Problem, kind: str, line: _Line, first: jax.Array, slope: jax.Array, busy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Steps (G,) that leave little of the slope, the slopes and what is wrong there; Newton's, kept in a bracket."""

    def unfinished(slope_there: jax.Array) -> jax.Array:
        return (jnp.abs(slope_there) > SLOPE_LEFT * jnp.abs(slope)) & busy

    # The first look is the loop's own too: what is compiled once is compiled in half the time.
    def again(carry: tuple) -> tuple:
        step, _, low, high, _, _, trial = carry
        there, bend, wrong = _look(problem, kind, line, step)
        low, high = jnp.where(there < 0, step, low), jnp.where(there > 0, step, high)
        newton = jnp.minimum(step - there / bend, 10 * step)
        halved = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * step)
        moved = jnp.where((newton > low) & (newton < high), newton, halved)
        return jnp.where(unfinished(there), moved, step), step, low, high, there, wrong, trial + 1

    never = jnp.full_like(first, jnp.inf)
    carry = (first, first, jnp.zeros_like(first), never, never, jnp.zeros_like(line.ahead), 0)
    _, looked, _, _, there, wrong, _ = jax.lax.while_loop(
        lambda carry: jnp.any(unfinished(carry[4])) & (carry[6] <= MOST_TRIALS), again, carry
    )
    return looked, there, wrong


def _descend(
    problem: Problem, kind: str, penalty: jax.Array, start: jax.Array, tolerance: float, most_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """G heads side by side from `start` (G, C, K + 1) to their optimum; also excess (G,) and steps (G,)."""
    total = problem.weight.sum()
    kernel = jnp.arange(start.shape[2]) < start.shape[2] - 1
    ridge = penalty[:, None, None] * kernel
    # Curvature below the mean is not trusted: it is measured at the start, where classes are not told apart yet.
    least = jnp.mean(problem.curvature[:, :-1], axis=1, keepdims=True)
    scale = jax.lax.rsqrt(problem.curvature + jnp.where(kernel, jnp.maximum(ridge, least), 0))
    convexity = jnp.where(kernel, ridge, jnp.minimum(penalty[:, None, None], problem.curvature))
    lbfgs = optax.scale_by_lbfgs(MEMORY)
    counted = optax.ScaleByLBFGSState(None, 0, 0, 0, 0, 0)  # heads count steps together

    def margins_of(params: jax.Array) -> jax.Array:
        return _margins(problem, kind, jnp.einsum("gck,nk->gcn", params, problem.rows, precision=HIGHEST))

    def gradient(wrong: jax.Array, params: jax.Array) -> jax.Array:
        residual = _residual(problem, kind, wrong)
        return jnp.einsum("gcn,nk->gck", residual, problem.rows, precision=HIGHEST) + ridge * params

    def excess(grad: jax.Array) -> jax.Array:
        return jnp.sum(grad**2 / convexity, axis=(1, 2)) / (2 * total)

    def allowed(wrong: jax.Array, params: jax.Array) -> jax.Array:
        objective = _loss(problem, kind, wrong) + jnp.sum(ridge * params**2, axis=(1, 2)) / 2
        return tolerance * jnp.minimum(1, objective / total / SMALL_OBJECTIVE)

    def busy(carry: tuple) -> jax.Array:
        _, _, grad, limit, _, gain, steps = carry[:7]
        gains = (steps < SETTLED) | (gain > LEAST_GAIN * limit)
        return (excess(grad) > limit) & gains & (steps < most_steps)

    def step(carry: tuple) -> tuple:
        params, margins, grad, limit, state, gain, steps, count = carry
        going = busy(carry)
        turned, state = jax.vmap(lbfgs.update, (0, counted, 0), (0, counted))(grad * scale, state, params / scale)
        ahead = -turned * scale
        slope = jnp.sum(grad * ahead, axis=(1, 2))
        line = _Line(
            margins,
            margins_of(ahead),
            jnp.sum(ridge * params * ahead, axis=(1, 2)),
            jnp.sum(ridge * ahead**2, axis=(1, 2)),
        )
        # optax shortens the first step to a norm of 1; along these axes the whole is right
        first = jnp.where(count == 0, jnp.maximum(jnp.sqrt(jnp.sum((grad * scale) ** 2, axis=(1, 2))), 1), 1.0)
        size, there, wrong = _search(problem, kind, line, first, slope, going)
        size = jnp.where(going, size, 0)[:, None, None]
        params, margins = params + size * ahead, margins + size * line.ahead
        grad = jnp.where(going[:, None, None], gradient(wrong, params), grad)
        limit = jnp.where(going, allowed(wrong, params), limit)
        gained = -size[:, 0, 0] * (slope + there) / (2 * total)
        gain = jnp.where(going, jnp.where(steps == 0, gained, 0.8 * gain + 0.2 * gained), gain)
        return params, margins, grad, limit, state, gain, steps + going, count + 1

    margins = margins_of(start)
    wrong = _wrong(problem, kind, margins)
    state = jax.vmap(lbfgs.init, out_axes=counted)(start)
    count = jnp.zeros(len(start), jnp.int32)
    carry = (
        start,
        margins,
        gradient(wrong, start),
        allowed(wrong, start),
        state,
        jnp.zeros(len(start)),
        count,
        jnp.zeros((), jnp.int32),
    )
    carry = jax.lax.while_loop(lambda carry: jnp.any(busy(carry)), step, carry)
    return carry[0], excess(carry[2]), carry[6]
