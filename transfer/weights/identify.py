"""What a weight file looks like, by the names and shapes of its tensors: only asked where a file does not fit."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import catalogue, spellings
from transfer.weights.catalogue import Record
from transfer.weights.load import Likeness, fit
from transfer.weights.maps import family
from transfer.weights.names import CLASSIFIER_LAYER, NameMap, Shape, libraries, name_map, shapes_of

Fields = tuple[tuple[str, Any], ...]

# The share of common names from which on a family is looked at, and from which on an architecture is worth naming.
FAMILY_SHARE = 0.2
WORTH_NAMING = 0.5
# From here on nothing better is looked for, and so many architectures are tried because of their size.
CLOSE = 0.9
NEAREST = 3
SHOWN = 3
TITLES = {"keras": "Keras", "native": "this package", "transformers": "Hugging Face transformers"}


class Match(NamedTuple):
    """How well a file's tensors agree with one architecture in one library's names.

    Attributes:
      names: the names that both have, over the mean of their numbers; 1 if all agree.
      overlap: the same over the smaller of their numbers.
      sizes: the share of the common names whose shapes agree, the last layer aside.
      classes: size of the file's last layer; 0 if the file has no classifier.
    """

    arch: str
    fields: Fields
    library: str
    names: float
    overlap: float
    sizes: float
    classes: int

    @property
    def rank(self) -> tuple[float, float]:
        """Compares two matches: names first; (1, 1) if all names and shapes agree."""
        return self.names, self.sizes


def other_than(arch: str, wanted: Sequence[str], tensors: Mapping[str, np.ndarray]) -> Likeness | None:
    """The architecture that tensors look like which did not fit `arch` by the names of any library of `wanted`.

    None where they look like just that, but for what the comparison lists, and where they look like nothing known.
    """
    best = matches(tensors)
    as_taken = any(match.arch == arch and match.library in wanted for match in best)
    # an exact match that did not fit is of another variant (Keras' ResNet has biases that torchvision's has not)
    if not best or (as_taken and best[0].rank != (1, 1)):
        return None
    return Likeness(_phrase(best), best[0].names == 1, as_taken)


def matches(tensors: Mapping[str, np.ndarray]) -> list[Match]:
    """The best matches of all architectures and libraries, several where they agree equally well; empty if poor.

    Building an architecture takes up to half a second even without its arrays, so those of about the file's size
    are tried first, and of the others only the families that share some names with it.
    """
    best = _best(_of_about_this_size(tensors), tensors, lambda match: match.rank == (1, 1))
    if not best or min(best[0].rank) < CLOSE:
        best = _best(_likely(tensors), tensors, lambda match: match.names == 1)
    return best


def _best(archs: Sequence[str], tensors: Mapping[str, np.ndarray], is_enough: Callable[[Match], bool]) -> list[Match]:
    best: list[Match] = []
    for arch in archs:
        # an architecture's own fields first, then those that its records are built with
        for fields in dict.fromkeys([(), *(r.fields for r in catalogue.records().values() if r.arch == arch)]):
            new = [match for match in _of_variant(arch, fields, tensors) if match.names >= WORTH_NAMING]
            rank = max((match.rank for match in (*best, *new)), default=None)
            best = [match for match in (*best, *new) if match.rank == rank]
            if best and is_enough(best[0]):
                return best
    return best


def _of_about_this_size(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The architectures whose records' parameters, with or without a last layer, come nearest to the file's."""
    count = max(1, sum(array.size for array in tensors.values()))
    distances: dict[str, float] = {}
    for record in catalogue.records().values():
        if record.num_params and record.num_features and record.arch in registry.architectures():
            last_layer = (record.num_features + 1) * record.num_classes
            distance = min(abs(size - count) for size in (record.num_params, record.num_params - last_layer))
            distances[record.arch] = min(distance, distances.get(record.arch, distance))
    return sorted(distances, key=distances.__getitem__)[:NEAREST]


def _likely(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Architectures of the families whose first member shares enough names with the file, the likeliest first."""
    members: dict[str, list[str]] = {}
    for arch in registry.architectures():
        members.setdefault(family(arch).name, []).append(arch)
    # the share of common names -> the members of the families
    overlaps = [
        (max((match.overlap for match in _of_variant(archs[0], (), tensors)), default=0.0), archs)
        for archs in members.values()
    ]
    overlaps.sort(key=lambda pair: -pair[0])
    return [arch for share, archs in overlaps if share >= FAMILY_SHARE for arch in archs]


def _of_variant(arch: str, fields: Fields, tensors: Mapping[str, np.ndarray]) -> Iterator[Match]:
    """How an architecture matches in each library's names, if at all; without a classifier if the file has none."""
    shapes = _shapes(arch, fields)
    for library in libraries(arch):
        maps = [_map(arch, fields, library)]
        try:
            places = spellings.candidates(tensors, maps)
            place = spellings.nearest(places, tensors, maps).alone(places, side_heads=())
        except TransferError:
            continue
        names = place.names
        # one number in place of all: only the shapes are wanted
        stand_ins = {name: np.broadcast_to(np.float32(0), array.shape) for name, array in place.tensors.items()}
        headless = not any(names.in_classifier(name) and not names.is_excused(name) for name in stand_ins)
        left_out = [path for path in shapes if names.fills_classifier(path)] if headless else []
        arrays, report = fit(stand_ins, shapes, names, left_out)
        common = len(arrays) + len(report.misshapen)
        if common:
            sources = {path: names.sources[path].name for path in shapes if path.startswith(CLASSIFIER_LAYER)}
            resized = sum(path not in arrays and source in stand_ins for path, source in sources.items())
            absent = (len(report.missing), len(report.unexpected))
            share, overlap = 2 * common / (2 * common + sum(absent)), common / (common + min(absent))
            bias = stand_ins.get(sources.get(f"{CLASSIFIER_LAYER}bias", ""), np.zeros(0))
            yield Match(arch, fields, library, share, overlap, (len(arrays) + resized) / common, (*bias.shape, 0)[0])


@functools.cache
def _shapes(arch: str, fields: Fields) -> dict[str, Shape]:
    return shapes_of(registry.build(arch, seed=None, **dict(fields)))


@functools.cache
def _map(arch: str, fields: Fields, library: str) -> NameMap:
    return name_map(arch, library, _shapes(arch, fields))


def _phrase(best: Sequence[Match]) -> str:
    """`resnet50 from torchvision or timm (resnet50.tv1, resnet50.tv2, …), with 10 classes`."""
    match = best[0]
    same = [other for other in best if other.arch == match.arch]
    sources = " or ".join(dict.fromkeys(TITLES.get(other.library, other.library) for other in same))
    differences = [] if match.sizes == 1 else ["layers of other sizes"]
    records = [] if differences else _records(same)
    known = ", ".join(record.name for record in records[:SHOWN]) + (", …" if len(records) > SHOWN else "")
    default = _shapes(match.arch, match.fields)[f"{CLASSIFIER_LAYER}bias"][0]
    if match.classes and match.classes not in ({record.num_classes for record in records} or {default}):
        differences.append(f"{match.classes} classes")
    phrase = f"{match.arch} from {sources}" + (f" ({known})" if known else "")
    phrase += f", with {' and '.join(differences)}" if differences else ""
    return phrase if match.classes else f"{phrase}, without its classifier"


def _records(same: Sequence[Match]) -> list[Record]:
    """The records that such a file could be of, by name."""

    def could_be(record: Record, match: Match) -> bool:
        is_named_so = record.arch == match.arch and match.library in ("native", record.name_map)
        if not is_named_so or (match.classes and not record.num_classes):
            return False
        return record.fields == match.fields or _shapes(record.arch, record.fields) == _shapes(match.arch, match.fields)

    records = catalogue.records().values()
    return sorted((r for r in records if any(could_be(r, match) for match in same)), key=lambda record: record.name)
