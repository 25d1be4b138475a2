"""Where in a file a network lies and how its tensors are spelt there: under a prefix, without a lead, by numbers.

What torchvision calls `conv1.weight` is `module.encoder_q.conv1.weight` in the checkpoint of a training script, and
`0.weight` where somebody made an `nn.Sequential` of the network's children; `vgg16.features` alone has `0.weight` too.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import NamedTuple

import numpy as np
from absl import logging

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable
from transfer.weights.load import few, fit
from transfer.weights.maps import SIDE_HEADS
from transfer.weights.names import CLASSIFIER_LAYER, NameMap, Shape

# Where a part of a tensor's name ends, in PyTorch's names and in Keras'.
SEPARATORS = "./"
SEPARATOR = re.compile(f"[{SEPARATORS}]")
DIGITS = re.compile(r"\d+")
# The share of a backbone from which on a part of a file is one that lacks something.
WORTH_TAKING = 0.5
# So many backbones of one file are compared with each other, and so many are left aside.
MOST_COMPARED, MOST_ASIDE = 8, 100
# So many modules may follow the classifier's place in an `nn.Sequential` of a network's children.
BEHIND = 10


class Place(NamedTuple):
    """A part of a file that holds a backbone, or most of one.

    Attributes:
      names: from our paths to the names that the tensors have in the file.
      prefix: of those names.
      share: of the backbone's tensors that lie there.
      tensors: of the file, or what of it belongs to the network.
      outside: the names of what does not.
    """

    names: NameMap
    prefix: str
    share: float
    tensors: Mapping[str, np.ndarray]
    outside: Sequence[str] = ()

    @property
    def held(self) -> int:
        """How many tensors of the network lie here, the classifier's too."""
        return sum(source.name in self.tensors for source in self.names.sources.values())

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether the backbone has the sizes of the model's arrays, and nothing more."""
        body = {path: shapes[path] for path in self.names.backbone}
        return fit(self.tensors, body, self.names.only(body))[1].fits

    def equals(self, other: "Place") -> bool:
        """Whether two networks are one: all that both of them have, backbone and classifier, has the same values."""
        own, theirs = self.names.sources, other.names.sources
        pairs = ((self.tensors.get(own[path].name), other.tensors.get(theirs[path].name)) for path in own)
        return all(one is two or one is None or two is None or np.array_equal(one, two) for one, two in pairs)

    def alone(self, places: Sequence["Place"], side_heads: Collection[str] = SIDE_HEADS) -> "Place":
        """The place without what lies elsewhere: outside of the prefix, in side heads, in other ones of `places`."""
        used = {source.name for source in self.names.sources.values()}
        others = {place.prefix for place in places if used.isdisjoint(place.names.backbone.values())}
        inner = tuple(o for o in others if o.startswith(self.prefix) and o != self.prefix)[:MOST_ASIDE]
        behind = self._behind(set(map(_spelling, used))) if self.share == 1 else ()

        def belongs(name: str) -> bool:
            if name in used or not name.startswith(self.prefix) or name.startswith(inner):
                return name in used
            part = SEPARATOR.split(name[len(self.prefix) :], maxsplit=1)[0]
            is_other = part in side_heads or name in behind
            return not is_other or self.names.in_classifier(name)

        inside = {name: tensor for name, tensor in self.tensors.items() if belongs(name)}
        return self._replace(tensors=inside, outside=[name for name in self.tensors if name not in inside])

    def _behind(self, spelt: Collection[str]) -> Collection[str]:
        """The tensors that can only follow the network; one of a layer `spelt` as its own may be a part of another."""
        return self.names.row.behind({n: t for n, t in self.tensors.items() if _spelling(n) not in spelt})

    def log(self, file: str, model: str) -> None:
        """Says what was taken, where that is not all of the file under its own names."""
        if self.prefix or self.outside:
            where = f"lies under {printable(self.prefix)!r}" if self.prefix else "has other tensors beside it"
            left_out = f": {len(self.outside)} outside of it are left out ({few(self.outside)})" if self.outside else ""
            logging.info("%s: the network in %s %s%s", model, file, where, left_out)


def _spelling(name: str) -> str:
    """The layer that a tensor is of, whatever its number."""
    return DIGITS.sub("0", name.rpartition("/")[0])


def find(
    tensors: Mapping[str, np.ndarray],
    maps: Sequence[NameMap],
    shapes: Mapping[str, Shape],
    prefix: str | None = None,
    file: str = "the file",
) -> Place:
    """The place of a model with arrays of `shapes` in a file whose names are those of one of the `maps`.

    Args:
      prefix: of the names to take, with or without its last dot; None: the one under which all of the backbone lies.
        Where there is none, the place with the most of it is taken, so that what is missing can be listed.

    Raises:
      TransferError: different backbones lie in the file, or none under `prefix`; the message names the prefixes.
    """
    places = candidates(tensors, maps)
    asked = places
    if prefix is not None:
        asked = [place for place in places if place.prefix.rstrip(SEPARATORS) == prefix.rstrip(SEPARATORS)]
        if not asked:
            there = f"; there is one under {_listed(places)}" if places else ""
            raise TransferError(f"{file} has no such network under prefix={printable(prefix)!r}{there}")
    whole = [place for place in asked if place.share == 1]
    if not whole:
        place = nearest(asked, tensors, maps)
        return place.alone(places) if place.share else place
    several = f"{file} holds several networks, under {_listed(whole)}; choose one by prefix="
    if len({place.prefix for place in whole}) > MOST_COMPARED:
        raise TransferError(several)
    whole = [place.alone(places) for place in whole]
    # a smaller network has the names of a larger one, but not its sizes
    whole = [place for place in whole if place.fits(shapes)] or whole
    if not all(whole[0].equals(place) for place in whole[1:]):
        raise TransferError(several)
    return max(whole, key=lambda place: place.held)


def nearest(places: Sequence[Place], tensors: Mapping[str, np.ndarray], maps: Sequence[NameMap]) -> Place:
    """The one of `places` that holds most, else the whole file, by the map that it has most names of."""
    plain = (Place(names, "", 0, names.row.rename(tensors)) for names in maps)
    return max(places or plain, key=lambda place: (place.share, place.held))


def _listed(places: Sequence[Place]) -> str:
    prefixes = dict.fromkeys(place.prefix.rstrip(SEPARATORS) for place in places)
    return few([repr(prefix) for prefix in prefixes])


def candidates(tensors: Mapping[str, np.ndarray], maps: Sequence[NameMap]) -> list[Place]:
    """The places that hold a backbone or at least half of one, in the order of the `maps`."""
    places = []
    for names in maps:
        renamed, forms = names.row.rename(tensors), list(_forms(names))
        # a name -> the forms that have it
        owners: dict[str, list[int]] = {}
        for number, form in enumerate(forms):
            for name in set(form.backbone.values()):
                owners.setdefault(name, []).append(number)
        deepest = 1 + max(len(SEPARATOR.findall(name)) for name in owners)
        counts: Counter[tuple[int, str]] = Counter()
        for name in renamed:
            for start in [0, *(match.end() for match in SEPARATOR.finditer(name))][-deepest:]:
                for number in owners.get(name[start:], ()):
                    counts[number, name[:start]] += 1
        sizes = Counter(number for numbers in owners.values() for number in numbers)
        for (number, prefix), count in counts.items():
            if count >= WORTH_TAKING * sizes[number]:
                spelt = forms[number].spelt(prefix.__add__)
                places.append(Place(spelt, prefix, count / sizes[number], renamed))
    return places


def _forms(names: NameMap) -> Iterator[NameMap]:
    """The names as they are, without the lead that all of a backbone's have, by the numbers of a module's children."""
    yield names
    lead = commonprefix(list(names.backbone.values()))
    lead = lead[: max(lead.rfind(separator) for separator in SEPARATORS) + 1]
    if lead:
        yield names.spelt(lambda name: name.removeprefix(lead))
    # children that only training uses may have been taken off before
    for missing in dict.fromkeys(((), names.row.excused)) if names.row.children else ():
        children = [child for child in names.row.children if f"{child}." not in missing]
        numbers = {child: str(number) for number, child in enumerate(children)}

        def numbered(name: str, numbers: Mapping[str, str] = numbers) -> str:
            child, dot, rest = name.partition(".")
            return f"{numbers.get(child, child)}{dot}{rest}"

        spelt, last = names.spelt(numbered), len(children) - 1
        behind = tuple(f"{number}." for number in range(last, last + BEHIND))
        yield spelt._replace(row=spelt.row._replace(classifier=behind))


def with_last_layer(names: NameMap, tensors: Mapping[str, np.ndarray]) -> NameMap:
    """The map of a file whose last layer is in a place of its own: `fc.1` of `Sequential(Dropout(), Linear(…))`.

    That is so where the classifier has one layer's kernel and bias, and nothing else, beside the hidden layers.
    """
    last = {path: source for path, source in names.sources.items() if path.startswith(CLASSIFIER_LAYER)}
    if not last or any(source.name in tensors for source in last.values()):
        return names
    hidden = {source.name for path, source in names.sources.items() if path not in last}
    theirs = {name for name in tensors if names.in_classifier(name) and name not in hidden}
    leaves = {path: SEPARATOR.split(source.name)[-1] for path, source in last.items()}
    layer = commonprefix(list(theirs))
    if theirs != {layer + leaf for leaf in leaves.values()}:
        return names
    own = {path: last[path]._replace(name=layer + leaf) for path, leaf in leaves.items()}
    return names._replace(sources={**names.sources, **own})
