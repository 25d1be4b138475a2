"""Whatever lies around a network in a file, its arrays are found or the file is refused; none is ever another's."""

from collections.abc import Mapping

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spelt import WIDTH, numbered, other, resnet, under

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import spellings
from transfer.weights.load import fit
from transfer.weights.names import name_map, shapes_of

Tensors = Mapping[str, np.ndarray]
SHAPES = shapes_of(registry.build("resnet18", seed=None, width=WIDTH, num_classes=0))
MAPS = [name_map("resnet18", library, SHAPES) for library in ("native", "torchvision", "timm", "transformers", "keras")]
PLAIN, _ = fit(resnet(), SHAPES, MAPS[1])


def transformers(tensors: Tensors) -> dict[str, np.ndarray]:
    """A ResNet in the names of Hugging Face."""
    shapes = {path: array.shape for path, array in fit(tensors, SHAPES, MAPS[1])[0].items()}
    theirs = name_map("resnet18", "transformers", shapes).sources
    return {theirs[path].name: tensors[source.name] for path, source in MAPS[1].sources.items()}


PARTS = st.sampled_from(
    ["module", "model", "net", "backbone", "encoder_q", "0", "4", "features", "resnet", "fc", "layer1", "conv1", "bn1"]
)
PREFIXES = st.lists(PARTS, max_size=4).map(lambda parts: "".join(f"{part}." for part in parts))
LEAVES = st.sampled_from(["weight", "bias", "running_mean", "0.weight", "conv1.weight", "layer4.1.bn2.bias", "queue"])
JUNK = st.dictionaries(st.tuples(PREFIXES, LEAVES).map("".join), st.integers(1, 8), max_size=6)
FORMS = {"as it is": lambda tensors: tensors, "numbered": numbered, "of transformers": transformers}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    prefix=PREFIXES,
    form=st.sampled_from(sorted(FORMS)),
    second=st.none() | PREFIXES,
    copied=st.booleans(),
    lost=st.none() | st.integers(0, len(PLAIN) - 1),
    junk=JUNK,
    shuffled=st.randoms(use_true_random=False),
)
def test_the_same_arrays_or_one_clear_error(
    prefix: str,
    form: str,
    second: str | None,
    copied: bool,
    lost: int | None,
    junk: Mapping[str, int],
    shuffled: object,
) -> None:
    """A network under a prefix, perhaps with one tensor lost, among junk and perhaps beside a copy or another one."""
    body = {name: tensor for name, tensor in resnet().items() if not name.startswith("fc.")}
    tensors = {name: np.full(size, 7, np.float32) for name, size in junk.items()}
    if second is not None:
        tensors |= under(second, FORMS[form](body if copied else other(body)))
    tensors |= under(prefix, FORMS[form](body))
    if lost is not None:
        path = list(PLAIN)[lost]
        name = next(name for name in tensors if tensors[name] is body[MAPS[1].sources[path].name])
        del tensors[name]
    names = list(tensors)
    shuffled.shuffle(names)
    tensors = {name: tensors[name] for name in names}
    inside = tuple(filter(lambda prefix: prefix is not None, (prefix, second)))
    is_clean = lost is None and (copied or second in (None, prefix)) and not any(n.startswith(inside) for n in junk)
    try:
        place = spellings.find(tensors, MAPS, SHAPES)
        arrays, report = fit(place.tensors, SHAPES, place.names)
        if not report.fits:
            raise TransferError(str(report))
    except TransferError as error:
        message = str(error)
        assert not is_clean and "\n" not in message
        assert any(word in message for word in ("several networks", "missing", "unexpected", "misshapen"))
        return
    expected = PLAIN
    if not np.array_equal(arrays["stem.conv.kernel"], PLAIN["stem.conv.kernel"]):
        # the other network, where the first is not whole or junk lies in it
        assert second is not None and not copied and not is_clean
        expected = fit(other(body), SHAPES, MAPS[1])[0]
    for path, array in expected.items():
        np.testing.assert_array_equal(arrays[path], array, err_msg=path)
