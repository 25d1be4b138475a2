"""Training from some layer on: what patterns name, that the rest stays bit for bit, rates and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_network import SmallNetwork

from transfer import config as config_module
from transfer.errors import UsageError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.training import finetune
from transfer.training.finetune import trained_layers

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RECIPE = Preprocessing((16, 16), scale=1 / 255)
ROWS = 8


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return jnp.asarray(random.integers(0, 256, (ROWS, 16, 16, 3), np.uint8)), jnp.arange(ROWS) % 2


def network(rows, unfreeze=None, **settings) -> finetune.Network:
    config = config_module.default().finetune
    config.update({"batch_size": ROWS, "epochs": 4, "warmup_epochs": 0, "flip": False, "crop": 0, **settings})
    model = SmallNetwork(rngs=nnx.Rngs(0))
    return finetune.Network(model, RECIPE, config, len(rows[1]), trained=trained_layers(model, unfreeze))


def one_step(built: finetune.Network, rows) -> tuple[set[str], float]:
    """The arrays that a step moves (`block1.conv.kernel`, …), and its loss."""
    state = built.init_state()
    before = {path: np.asarray(array) for path, array in registry.flat_state(built.model(state)).items()}
    state, measured = built.step(state, rows, jnp.arange(ROWS), jax.random.key(0))
    after = registry.flat_state(built.model(state))
    return {path for path, array in after.items() if before[path].tobytes() != np.asarray(array).tobytes()}, measured[0]


def loss_at_inference(built: finetune.Network, rows) -> float:
    return built.evaluate(built.init_state(), rows, jnp.arange(ROWS), jnp.ones(ROWS))[0][0] / ROWS


PARAMETERS = {"conv.kernel", "conv.bias", "bn.scale", "bn.bias"}
STATISTICS = {"bn.mean", "bn.var"}
HEAD = {"logits.kernel", "logits.bias"}
# (unfreeze, batch_norm) -> what moves: trained blocks, names in each
MOVES = {
    (None, "update"): ((1, 2, 3), PARAMETERS | STATISTICS),
    (None, "freeze"): ((1, 2, 3), PARAMETERS),
    ("block3", "update"): ((3,), PARAMETERS | STATISTICS),
    ("block2.conv", "update"): ((2,), {"conv.kernel", "conv.bias"}),
    ("logits", "update"): ((), set()),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MOVES, ids=str)
def test_frozen_layers_stay_bit_for_bit(case, rows):
    unfreeze, batch_norm = case
    blocks, names = MOVES[case]
    built = network(rows, unfreeze, batch_norm=batch_norm, weight_decay=0.1)
    found, loss = one_step(built, rows)
    # a bias before a batch norm that takes the batch's statistics has no gradient but rounding
    loose = {f"block{i}.conv.bias" for i in blocks}
    assert found - loose == (HEAD | {f"block{i}.{name}" for i in blocks for name in names}) - loose
    by_statistics = "bn.mean" not in names
    assert (abs(loss - loss_at_inference(built, rows)) < 1e-5) == by_statistics


def test_frozen_layers_are_not_differentiated(rows):
    def convolutions(unfreeze) -> int:
        built = network(rows, unfreeze)
        arguments = (built.init_state(), rows, jnp.arange(ROWS), jax.random.key(0))
        return str(jax.make_jaxpr(built.step)(*arguments)).count("conv_general_dilated[")

    # forward 3; backward for each trained one a kernel's gradient, and an input's where something below is trained
    assert [convolutions(u) for u in (None, "block2,block3", "block3", "logits")] == [8, 6, 4, 3]
    assert set(network(rows, "block3").init_state()["params"]) == {"block3", "logits"}


def test_losses_and_accuracies_are_those_of_the_scores(rows):
    """Of a step by smoothed labels, and of an evaluation of some of the images; all but the classifier is frozen."""
    built = network(rows, "logits", label_smoothing=0.2, batch_norm="freeze")
    state, real = built.init_state(), (np.arange(ROWS) % 4 > 0).astype(np.float32)
    sums, scores = built.evaluate(state, rows, jnp.arange(ROWS), real)
    losses = -np.asarray(jax.nn.log_softmax(scores))
    of_label, right = losses[np.arange(ROWS), rows[1]], scores.argmax(axis=1) == rows[1]
    np.testing.assert_allclose(sums, [(of_label * real).sum(), (right * real).sum()], rtol=1e-5)
    _, measured = built.step(state, rows, jnp.arange(ROWS), jax.random.key(0))
    np.testing.assert_allclose(measured, [np.mean(0.8 * of_label + 0.2 * losses.mean(axis=1)), right.mean()], rtol=1e-5)


@pytest.mark.parametrize("own, still", [(0.1, {"block1"}), (0.0, {"logits"}), (None, {"block1", "logits"})])
def test_two_learning_rates(own, still, rows):
    """The block's rate is 0 where it is to stay still."""
    rate = 0.0 if "block1" in still else 0.1
    found, _ = one_step(network(rows, "block1", learning_rate=rate, head_learning_rate=own, batch_norm="freeze"), rows)
    assert {path.partition(".")[0] for path in found} == {"block1", "logits"} - still


@pytest.mark.parametrize(
    "unfreeze, layers",
    [
        ("layer2", {"layer2.0", "layer2.1"}),
        ("layer1,layer2.1", {"layer1", "layer2.1"}),
        (" layer* ", {"layer1", "layer2.0", "layer2.1"}),
        ("*.1", {"layer2.1"}),
        ("logits", set()),
    ],
)
def test_patterns(unfreeze, layers):
    class Nested(nnx.Module):
        def __init__(self, rngs):
            self.layer1 = nnx.Linear(2, 2, rngs=rngs)
            self.layer2 = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)])
            self.logits = nnx.Linear(2, 2, rngs=rngs)

    assert trained_layers(Nested(nnx.Rngs(0)), unfreeze) == layers | {"logits"}


def test_a_pattern_that_matches_nothing_says_what_there_is():
    model = registry.build("resnet18", seed=None, width=0.1)
    with pytest.raises(UsageError, match=r"'stage5' matches no layer; there is .*stage4.*such as stage1.unit1.bn1"):
        trained_layers(model, "stage4,stage5")
    assert "stage4.unit2.conv2" in trained_layers(model, "stage4")
    with pytest.raises(UsageError, match="'' matches no layer"):
        trained_layers(model, "stage4,")


def test_unknown_batch_norm(rows):
    with pytest.raises(UsageError, match="batch_norm='frozen' is not one of update, freeze"):
        network(rows, batch_norm="frozen")
