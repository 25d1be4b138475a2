"""Regularised logistic regression at its optimum for a path of penalties: L-BFGS, warm-started along the path.

The objective is scikit-learn's: the loss summed over rows, times their weights, + penalty / 2 |kernel|^2 with
penalty = 1 / C; the bias is free. Three things make a path of 45 penalties cost little more than a few of its points:

* Rows are centred and rotated onto their principal axes, min(N, D) of them, and a step along each is scaled by the
  curvature at the start, so that L-BFGS sees a problem near the identity whatever the features' scale.
* Every fourth penalty is solved sequentially, from the strongest, each started by linear extrapolation from the two
  before it; the penalties between start from a cubic through their neighbours, several side by side in one product.
* Margins are linear in the step, so a step costs two products of the rows with the kernel, whatever the line search
  tries: it looks at derivatives alone, which float32 resolves where it no longer resolves the objective.

Pure JAX but for the schedule, which is made of the penalties on the host.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

HIGHEST = jax.lax.Precision.HIGHEST
# Rows are rotated where there are at most so many axes: what finding them takes grows with the cube.
MAX_ROTATED_AXES = 1024
MEMORY = 10  # pairs of L-BFGS
# Steps after which a head stops that gains less than this share of the tolerance in a step.
MIN_STEPS, MIN_GAIN = 8, 1e-3
SMALL_OBJECTIVE = 0.01  # below this mean objective the tolerance is relative
MAX_SLOPE_LEFT = 0.3  # share of the slope that a line search may leave
MAX_TRIALS = 10  # of a line search
# Bytes that the scores of heads solved side by side may take, with what goes with them; and the most of such heads.
SIDE_BY_SIDE_BYTES, MAX_SIDE_BY_SIDE = 256 << 20, 11
# One penalty in so many is solved sequentially.
SPACING = 4
# Fewer rows and columns than these are padded to a power of two, so that small problems share a compilation.
SMALL_ROWS, SMALL_COLUMNS = 512, 64


class Solutions(NamedTuple):
    """H heads at their optimum."""

    kernel: jax.Array  # float32 (H, D, C)
    bias: jax.Array  # float32 (H, C)
    # float32 (H,), a bound on how far the mean loss of each is above its optimum: by the penalty's strong convexity,
    # |gradient|^2 / (2 penalty). Loose for weak penalties.
    excess: jax.Array
    steps: jax.Array  # int32 (H,) of L-BFGS
    converged: jax.Array  # bool (H,); False where `max_steps` did not suffice, or float32 resolved no step


class Problem(NamedTuple):
    """The rows in the coordinates that the solver works in, the same for all heads, and the way back to features.

    Features (D,) are centre + size * axes times coordinates.
    """

    rows: jax.Array  # float32 (N, K + 1): coordinates along K axes, then `constant`, which is the bias's
    one_hot: jax.Array  # float32 (C, N), 0 or 1
    weight: jax.Array  # float32 (N,), of each row's loss
    start: jax.Array  # float32 (C, K + 1), which knows the classes' shares and nothing else
    curvature: jax.Array  # float32 (C, K + 1): second derivatives at the start, less the penalty
    centre: jax.Array  # (D,)
    size: jax.Array  # ()
    axes: jax.Array | None  # (D, K); None: those of the features
    constant: jax.Array  # ()


class Schedule(NamedTuple):
    """The rounds in which the penalties of a path are solved, and where each starts; number 0 is the strongest."""

    indices: np.ndarray  # int (R, G): the penalties that a round solves side by side
    # float32 (R, G, H + 1): the share of each solution in the start of another; the last is that of the start of all
    extrapolation_weights: np.ndarray


def logistic_path(
    x: ArrayLike,
    one_hot: ArrayLike,
    kind: str,
    penalties: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> Solutions:
    """Minimises sum over rows of weight * loss + penalty / 2 |kernel|^2 for each of H penalties.

    Args:
        x: (N, D) finite numbers.
        one_hot: (N, C) of 0 and 1. For two classes one column, the second class's, with kind "labels", is
            scikit-learn's objective; two columns would be penalised half as much.
        kind: "classes", a softmax over columns, or "labels", a sigmoid for each.
        penalties: (H,), above 0, in any order.
        weight: (N,) of each row, none below 0; None: 1.
        tolerance: of the mean loss, and a share of the objective where that is small (`SMALL_OBJECTIVE`). A head is
            done when its `excess` is below, or when a step gains next to nothing.
        max_steps: of L-BFGS for each head.

    Holds the rotated rows, and N x C floats a few times for each of the heads that `SIDE_BY_SIDE_BYTES` allow.
    """
    num_features = np.shape(x)[1]
    x, one_hot, weight = _pad(x, one_hot, weight)
    distinct, inverse = np.unique(-np.asarray(penalties, np.float32), return_inverse=True)  # the strongest first
    problem = _prepare(x, one_hot, weight, kind=kind, rotate=min(x.shape) <= MAX_ROTATED_AXES)
    num_rows, num_axes = problem.rows.shape
    bytes_per_head = 4 * len(one_hot) * (6 * num_rows + (2 * MEMORY + 6) * num_axes)
    max_width = int(np.clip(SIDE_BY_SIDE_BYTES // bytes_per_head, 1, MAX_SIDE_BY_SIDE))
    scaled = jnp.clip(-distinct * problem.size**-2, 1e-30, 1e30)
    schedules = _schedules(-distinct, max_width)
    params, *outcome = _solve(problem, scaled, schedules, tolerance, kind=kind, max_steps=max_steps)
    kernel, bias = _to_features(params, problem)
    return Solutions(kernel[inverse, :num_features], bias[inverse], *(array[inverse] for array in outcome))


def _pad(x: ArrayLike, one_hot: ArrayLike, weight: ArrayLike | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows (N', D'), one_hot (C, N') and weight (N',): small problems with rows of no weight and columns of zeros."""
    x, one_hot = jnp.asarray(x, jnp.float32), jnp.asarray(one_hot, jnp.float32).T
    weight = jnp.ones(len(x), jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32)
    rows, columns = (
        0 if size > small else (1 << max(size - 1, least - 1).bit_length()) - size
        for size, small, least in zip(x.shape, (SMALL_ROWS, SMALL_COLUMNS), (32, 8), strict=True)
    )
    if rows:
        x, one_hot = jnp.pad(x, ((0, rows), (0, 0)), "edge"), jnp.pad(one_hot, ((0, 0), (0, rows)), "edge")
        weight = jnp.pad(weight, (0, rows))
    return (jnp.pad(x, ((0, 0), (0, columns))) if columns else x), one_hot, weight


def _schedules(penalties: np.ndarray, max_width: int) -> list[Schedule]:
    """Those of H penalties, falling, that are solved sequentially, and then those side by side, `max_width` at most."""
    count, logs = len(penalties), np.log(penalties.astype(np.float64))  # starts are polynomials in the logarithm
    coarse = np.unique(np.append(np.arange(0, count, SPACING), count - 1))
    weights = np.zeros((len(coarse), 1, count + 1), np.float32)
    weights[0, 0, -1] = 1
    for row, index in enumerate(coarse):
        nodes = coarse[max(row - 2, 0) : row]
        weights[row, 0, nodes] = _lagrange(logs[nodes], logs[index])
    sequential = Schedule(coarse[:, None], weights)
    rest = np.setdiff1d(np.arange(count), coarse)
    if len(rest) == 0:
        return [sequential]
    rounds = -(-len(rest) // max_width)
    width = -(-len(rest) // rounds)
    rest = np.append(rest, np.repeat(rest[-1], rounds * width - len(rest)))
    weights = np.zeros((len(rest), count + 1), np.float32)
    for row, index in enumerate(rest):
        nodes = coarse[np.sort(np.argsort(np.abs(logs[coarse] - logs[index]), kind="stable")[:4])]
        weights[row, nodes] = _lagrange(logs[nodes], logs[index])
    return [sequential, Schedule(rest.reshape(rounds, width), weights.reshape(rounds, width, -1))]


def _lagrange(nodes: np.ndarray, at: float) -> np.ndarray:
    """Weights (n,) of the values at `nodes` (n,) in the polynomial through them at `at`."""
    others = ~np.eye(len(nodes), dtype=bool)
    distance = np.where(others, nodes[:, None] - nodes, 1)
    return np.prod(np.where(others, (at - nodes) / distance, 1), axis=1)


@functools.partial(jax.jit, static_argnames=("kind", "rotate"))
def _prepare(x: jax.Array, one_hot: jax.Array, weight: jax.Array, *, kind: str, rotate: bool) -> Problem:
    total = weight.sum()
    # the first row is taken off before the mean, which then is exact for a column that does not vary
    centre = x[0] + weight @ (x - x[0]) / total
    rows = x - centre
    size = jnp.maximum(jnp.abs(rows).max(), 1e-30)
    rows, axes = rows / size, None
    if rotate:
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
    share = jnp.clip(one_hot @ weight / total, 1e-6, 1 - 1e-6)
    bias = jnp.log(share) if kind == "classes" else jnp.log(share / (1 - share))
    curvature = (share * (1 - share))[:, None] * jnp.append(spectrum, constant**2 * total)
    start = jnp.zeros_like(curvature).at[:, -1].set(bias / constant)
    return Problem(rows, one_hot, weight, start, curvature, centre, size, axes, constant)


@jax.jit
def _to_features(params: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Kernels (H, D, C) and biases (H, C) for the features as they were given, of params (H, C, K + 1)."""
    kernel, bias = params[..., :-1] / problem.size, params[..., -1] * problem.constant
    if problem.axes is not None:
        kernel = jnp.einsum("hck,dk->hcd", kernel, problem.axes, precision=HIGHEST)
    bias = bias - jnp.einsum("hcd,d->hc", kernel, problem.centre, precision=HIGHEST)
    return kernel.swapaxes(1, 2), bias


@functools.partial(jax.jit, static_argnames=("kind", "max_steps"))
def _solve(
    problem: Problem, penalties: jax.Array, schedules: list[Schedule], tolerance: float, *, kind: str, max_steps: int
) -> tuple[jax.Array, ...]:
    """Params (H, C, K + 1), excess, steps and converged (H,), of penalties (H,), the strongest first."""

    def solve_round(solved: tuple, schedule: Schedule) -> tuple[tuple, None]:
        begin = jnp.einsum("gh,hck->gck", schedule.extrapolation_weights, solved[0], precision=HIGHEST)
        heads = _Heads.of(problem, kind, penalties[schedule.indices])
        outcome = _descend(heads, begin, tolerance, max_steps)
        return tuple(old.at[schedule.indices].set(new) for old, new in zip(solved, outcome, strict=True)), None

    count = len(penalties)
    start = jnp.broadcast_to(problem.start, (count + 1, *problem.start.shape))
    solved: Any = (start, jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
    for schedule in schedules:
        solved, _ = jax.lax.scan(solve_round, solved, schedule)
    return solved[0][:-1], *solved[1:]


class _Line(NamedTuple):
    """Heads along a direction: what the slope at a step is made of."""

    margins: jax.Array  # (G, C, N) at step 0
    change: jax.Array  # (G, C, N) added at step 1
    slope: jax.Array  # (G,) of the penalty at step 0
    curvature: jax.Array  # (G,) of the penalty


class _Heads(NamedTuple):
    """The objectives of G heads that are solved side by side, and their derivatives.

    These count by what is wrong: a column leads what is right by its margin, and has a probability that float32 holds
    exactly when it is small, as the right one's distance from 1 is not. Weak penalties need it.

    Sums over columns are of `where`, not of products: XLA's CPU compiler makes matrix products of those, one for each
    row, which are 20 times slower.
    """

    problem: Problem
    kind: str  # as `logistic_path` has it
    ridge: jax.Array  # (G, 1, K + 1), the penalty of each value, 0 of the bias
    convexity: jax.Array  # (G, C, K + 1), a lower bound of the second derivatives, for the bias a guess
    scale: jax.Array  # (G, C, K + 1), of a step along each axis

    @classmethod
    def of(cls, problem: Problem, kind: str, penalty: jax.Array) -> "_Heads":
        """Heads of penalties (G,)."""
        num_axes = problem.curvature.shape[1] - 1
        is_kernel = jnp.arange(num_axes + 1) < num_axes
        ridge = penalty[:, None, None] * is_kernel
        # Curvature below the mean is not trusted: it is measured at the start, where classes are not told apart yet.
        least = jnp.mean(problem.curvature[:, :-1], axis=1, keepdims=True)
        scale = jax.lax.rsqrt(problem.curvature + jnp.where(is_kernel, jnp.maximum(ridge, least), 0))
        convexity = jnp.where(is_kernel, ridge, jnp.minimum(penalty[:, None, None], problem.curvature))
        return cls(problem, kind, ridge, convexity, scale)

    def margins(self, params: jax.Array) -> jax.Array:
        """The lead of each column over the row's class, or of each label over what is right, (G, C, N); linear."""
        right = self.problem.one_hot > 0
        scores = jnp.einsum("gck,nk->gcn", params, self.problem.rows, precision=HIGHEST)
        if self.kind == "classes":
            return scores - jnp.sum(jnp.where(right, scores, 0), axis=1, keepdims=True)
        return jnp.where(right, -scores, scores)

    def wrong(self, margins: jax.Array) -> jax.Array:
        """The probability of what is wrong, (G, C, N), 0 where a column is the row's class."""
        if self.kind == "classes":
            return jnp.where(self.problem.one_hot > 0, 0, jax.nn.softmax(margins, axis=1))
        return jax.nn.sigmoid(margins)

    def gradient(self, wrong: jax.Array, params: jax.Array) -> jax.Array:
        """The gradient (G, C, K + 1) of the objective."""
        of_right = jnp.sum(wrong, axis=1, keepdims=True) if self.kind == "classes" else wrong
        by_scores = jnp.where(self.problem.one_hot > 0, -of_right, wrong) * self.problem.weight
        return jnp.einsum("gcn,nk->gck", by_scores, self.problem.rows, precision=HIGHEST) + self.ridge * params

    def limit(self, wrong: jax.Array, params: jax.Array, tolerance: float) -> jax.Array:
        """The largest excess that is allowed, (G,)."""
        if self.kind == "classes":
            wrong = jnp.sum(wrong, axis=1, keepdims=True)
        loss = -jnp.sum(jnp.log1p(-jnp.minimum(wrong, 1 - 1e-6)) * self.problem.weight, axis=(1, 2))
        objective = loss + jnp.sum(self.ridge * params**2, axis=(1, 2)) / 2
        return tolerance * jnp.minimum(1, objective / self.problem.weight.sum() / SMALL_OBJECTIVE)

    def excess(self, gradient: jax.Array) -> jax.Array:
        """A bound on how far the mean loss is above its optimum, (G,)."""
        return jnp.sum(gradient**2 / self.convexity, axis=(1, 2)) / (2 * self.problem.weight.sum())

    def line(self, params: jax.Array, margins: jax.Array, direction: jax.Array) -> _Line:
        """The line from `params`, whose margins are given, along a direction (G, C, K + 1)."""
        slope = jnp.sum(self.ridge * params * direction, axis=(1, 2))
        return _Line(margins, self.margins(direction), slope, jnp.sum(self.ridge * direction**2, axis=(1, 2)))

    def derivatives(self, line: _Line, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """First and second derivative along the line at `step` (G,), and what is wrong (G, C, N) there."""
        wrong, weight = self.wrong(line.margins + step[:, None, None] * line.change), self.problem.weight
        if self.kind == "classes":
            right = self.problem.one_hot > 0
            slopes = jnp.sum(jnp.where(right, 0, wrong * line.change), axis=1)
            curvatures = jnp.sum(jnp.where(right, 0, wrong * line.change**2), axis=1) - slopes**2
            slope, curvature = (jnp.sum(of_rows * weight, axis=1) for of_rows in (slopes, curvatures))
        else:
            pull = wrong * line.change * weight
            slope, curvature = jnp.sum(pull, axis=(1, 2)), jnp.sum(pull * (1 - wrong) * line.change, axis=(1, 2))
        return slope + line.slope + step * line.curvature, curvature + line.curvature, wrong


def _line_search(
    heads: _Heads, line: _Line, first: jax.Array, slope: jax.Array, busy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Steps (G,) that leave little of the slope, the slopes and what is wrong there; Newton's, kept in a bracket."""

    def unfinished(slope_there: jax.Array) -> jax.Array:
        return (jnp.abs(slope_there) > MAX_SLOPE_LEFT * jnp.abs(slope)) & busy

    # The first trial is the loop's own too: what is compiled once is compiled in half the time.
    def try_step(carry: tuple) -> tuple:
        step, _, low, high, _, _, trial = carry
        there, curvature, wrong = heads.derivatives(line, step)
        low, high = jnp.where(there < 0, step, low), jnp.where(there > 0, step, high)
        newton = jnp.minimum(step - there / curvature, 10 * step)
        halved = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * step)
        moved = jnp.where((newton > low) & (newton < high), newton, halved)
        return jnp.where(unfinished(there), moved, step), step, low, high, there, wrong, trial + 1

    never = jnp.full_like(first, jnp.inf)
    carry = (first, first, jnp.zeros_like(first), never, never, jnp.zeros_like(line.change), 0)
    _, tried, _, _, there, wrong, _ = jax.lax.while_loop(
        lambda carry: jnp.any(unfinished(carry[4])) & (carry[6] <= MAX_TRIALS), try_step, carry
    )
    return tried, there, wrong


class _State(NamedTuple):
    """G heads after some steps; those that are done stay as they are."""

    params: jax.Array  # (G, C, K + 1)
    margins: jax.Array  # (G, C, N)
    gradient: jax.Array  # (G, C, K + 1)
    limit: jax.Array  # (G,), what the excess may be
    lbfgs: Any
    gain: jax.Array  # (G,), of a step, a running mean
    predicted_gain: jax.Array  # (G,), of the last step, had the objective been quadratic
    steps: jax.Array  # int32 (G,)
    iteration: jax.Array  # int32 (), of all heads together


def _descend(
    heads: _Heads, start: jax.Array, tolerance: float, max_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Params (G, C, K + 1) like `start`, excess, steps and convergence (G,) of G heads, each with its line search."""
    total = heads.problem.weight.sum()
    lbfgs = optax.scale_by_lbfgs(MEMORY)
    axes = optax.ScaleByLBFGSState(None, 0, 0, 0, 0, 0)  # heads count steps together

    def is_busy(state: _State) -> jax.Array:
        gains = (state.steps < MIN_STEPS) | (state.gain > MIN_GAIN * state.limit)
        return (heads.excess(state.gradient) > state.limit) & gains & (state.steps < max_steps)

    def step(state: _State) -> _State:
        busy, scale, gradient = is_busy(state), heads.scale, state.gradient
        uphill, memory = jax.vmap(lbfgs.update, (0, axes, 0), (0, axes))(
            gradient * scale, state.lbfgs, state.params / scale
        )
        direction = -uphill * scale
        slope = jnp.sum(gradient * direction, axis=(1, 2))
        line = heads.line(state.params, state.margins, direction)
        # optax shortens the first step to a norm of 1; along these axes the whole is right
        norm = jnp.sqrt(jnp.sum((gradient * scale) ** 2, axis=(1, 2)))
        first = jnp.where(state.iteration == 0, jnp.maximum(norm, 1), 1.0)
        size, slope_there, wrong = _line_search(heads, line, first, slope, busy)
        size = jnp.where(busy, size, 0)[:, None, None]
        params = state.params + size * direction
        gained = -size[:, 0, 0] * (slope + slope_there) / (2 * total)
        running = jnp.where(state.steps == 0, gained, 0.8 * state.gain + 0.2 * gained)
        return _State(
            params=params,
            margins=state.margins + size * line.change,
            gradient=jnp.where(busy[:, None, None], heads.gradient(wrong, params), gradient),
            limit=jnp.where(busy, heads.limit(wrong, params, tolerance), state.limit),
            lbfgs=memory,
            gain=jnp.where(busy, running, state.gain),
            predicted_gain=jnp.where(busy, -slope / (2 * total), state.predicted_gain),
            steps=state.steps + busy,
            iteration=state.iteration + 1,
        )

    margins, zeros = heads.margins(start), jnp.zeros(len(start))
    wrong = heads.wrong(margins)
    gradient, limit = heads.gradient(wrong, start), heads.limit(wrong, start, tolerance)
    memory = jax.vmap(lbfgs.init, out_axes=axes)(start)
    none = jnp.zeros(len(start), jnp.int32), jnp.zeros((), jnp.int32)
    state = _State(start, margins, gradient, limit, memory, zeros, zeros, *none)
    state = jax.lax.while_loop(lambda state: jnp.any(is_busy(state)), step, state)
    excess = heads.excess(state.gradient)
    stopped_early = (state.steps < max_steps) & (state.predicted_gain <= state.limit)
    return state.params, excess, state.steps, (excess <= state.limit) | stopped_early
