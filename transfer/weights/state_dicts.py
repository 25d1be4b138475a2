"""The state dicts in a PyTorch file: where in its tree of dicts, lists and tuples they lie, and which one is taken.

What a training script saves may be `{"model": …, "optimizer": …}`, `{"student": …, "teacher": …}` or a tuple with the
epoch. A state dict has tensors under dotted names; its key is the path to it, `classy_state_dict.base_model.model`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.unpickler import StandIn
from transfer.runtime.files.untrusted import printable

# What training scripts call the state dict, most wanted first; "" is the whole file.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "model_state", "weights", "params", "network", "module"),
    *("backbone", "trunk", "base_model", ""),
)
# A part of a key that says that the weights are an average over steps: `model_ema`, `ema_state_dict`, `params_ema`.
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?)(?:[._]|$)", re.IGNORECASE)
# What the state of an optimiser has.
OPTIMISER = {"state", "param_groups"}
# Programs that save the average under the usual name: where they put the weights themselves, and what else they write.
EXCHANGED = {"ema_state_dict": "message_hub", "current_model_state": "averaging_state"}  # MMEngine, Lightning
# How deep state dicts may lie, how long their keys may be, and how many tensors and state dicts there may be.
DEEPEST, LONGEST, MOST_TENSORS, MOST_FOUND = 20, 1000, 1 << 16, 1000
# A state dict of fewer tensors, and of fewer than a tenth of another one's, is a head beside a network.
FEWEST = 10
SHOWN = 5
# How the names of functions begin that make tensors.
REBUILD = ("torch._utils._rebuild_", "torch._tensor._rebuild_")

# Part of the name of what stands in place of a tensor -> what to do.
ADVICE: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"qtensor|torch\.q(u?int|per_)|quantized|ScriptObject"), "it is quantised: save what it was made from"),
    (re.compile("sparse"), "save it dense, by to_dense()"),
    (re.compile("lazy"), "save it by resolve_conj().resolve_neg()"),
    (re.compile("DTensor|ShardedTensor|distributed"), "save whole tensors, by full_tensor()"),
    (re.compile("_rebuild_meta"), "it was on the device meta and has no values"),
    (re.compile(""), "save a state dict of plain tensors"),
)

Tensors = dict[str, Any]


def choose(tree: object, key: str | None = None, ema: bool = False) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of a file's state dict, and a sentence for each thing that was assumed in choosing it.

    Args:
      tree: what the file holds.
      key: of the state dict, whole or its end; None: the one that there is, or that has the most usual name.
      ema: True: the moving average of the weights; False: where there is more, the weights themselves.

    Raises:
      TransferError: there is none, several are as likely, or in place of a tensor lies something else. The message
        names what there is.
    """
    walk = Walk(tree)
    dotted = {path: tensors for path, tensors in walk.found.items() if any("." in name for name in tensors)}
    loose = {path: tensors for path, tensors in walk.found.items() if walk.is_plain or _rank(path) < _rank("")}
    pool: Mapping[str, Tensors] = dotted or loose
    if not pool:
        walk.raise_nothing(tree)
    there = f"there is {_listed(pool)}"
    if key is not None:
        ends = {path: tensors for path, tensors in walk.found.items() if f".{path}".endswith(f".{key}")}
        pool = {key: walk.found[key]} if key in walk.found else ends
        if not pool:
            raise TransferError(f"it has no state dict under key={printable(key)!r}; {there}")
    assumed: list[str] = []
    exchanged = _exchanged(tree)
    is_averaged = AVERAGED.search if exchanged is None else exchanged.__ne__
    averaged = {path: tensors for path, tensors in pool.items() if is_averaged(path)}
    raw = {path: tensors for path, tensors in pool.items() if path not in averaged}
    if ema and not averaged:
        raise TransferError(f"it has no moving average of the weights, which ema=True takes; {there}")
    pool = averaged if ema or not raw or (exchanged and averaged) else raw
    most = max(map(len, pool.values()))
    ranks = {path: _rank(path) for path, tensors in pool.items() if len(tensors) >= min(most / 10, FEWEST)}
    best, *others = [path for path in ranks if ranks[path] == min(ranks.values())]
    if others:
        raise TransferError(f"it has several state dicts, {_listed([best, *others])}; choose one by key=")
    if key is None and not ema and averaged:
        with_ema = f"the weights are those under {best!r}, not their moving average {_listed(averaged)} (ema=True)"
        why = f"not the weights themselves, {exchanged} (key=)" if exchanged else "as there are no others"
        alone = f"the weights are the moving average under {best!r}, {why}"
        assumed.append(with_ema if best in raw else alone)
    if key is None and len(pool) > 1:
        assumed.append(f"of {_listed(pool)}, the weights are those under {best!r} (key=)")
    return _plain(pool[best]), [printable(sentence, LONGEST) for sentence in assumed]


def _exchanged(tree: object) -> str | None:
    """The key of the weights themselves, of a program that saves their average under the usual one."""
    keys = tree.keys() if isinstance(tree, dict) else ()
    return next((key for key, beside in EXCHANGED.items() if key in keys and beside in keys), None)


def _rank(path: str) -> int:
    last = path.rpartition(".")[2]
    return WRAPPERS.index(last) if last in WRAPPERS else len(WRAPPERS)


def _listed(paths: Any) -> str:
    """The keys for a message, the first few of them."""
    keys = [printable(path) if path else "the file itself" for path in paths]
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _plain(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors; TransferError for what is none, with what to do."""
    for name, value in tensors.items():
        if isinstance(value, StandIn):
            advice = next(text for pattern, text in ADVICE if pattern.search(value.name))
            raise TransferError(f"{printable(name)} is a {value.name}, not a plain tensor; {advice}")
    return tensors


class Walk:
    """What lies in a tree: state dicts by their keys, the stand-ins and the states of optimisers beside them.

    `found` has dicts of tensors without dotted names too, such as a single layer's. Each dict is looked at once.
    """

    def __init__(self, tree: object) -> None:
        self.found: dict[str, Tensors] = {}
        self.stand_ins: dict[str, StandIn] = {}
        self.optimisers: list[str] = []
        self._seen: set[int] = set()
        self._add("", self._tensors(tree, "", 0))

    def _add(self, path: str, tensors: Tensors | None) -> None:
        if tensors and len(self.found) < MOST_FOUND:
            self.found[path] = tensors

    def _tensors(self, node: object, path: str, depth: int) -> Tensors | None:
        """The tensors of a node that is all a nested state dict, or part of one; None for others, whose are added."""
        if isinstance(node, StandIn) and len(self.stand_ins) < MOST_FOUND:
            self.stand_ins[path] = node
        node = node.entries or None if isinstance(node, StandIn) else node
        is_deep = depth > DEEPEST or len(path) > LONGEST
        if is_deep or not isinstance(node, (dict, list, tuple)) or id(node) in self._seen:
            return None
        self._seen.add(id(node))
        if isinstance(node, dict) and node.keys() >= OPTIMISER:
            self.optimisers.append(path)
            return None
        parts: dict[Any, object] = node if isinstance(node, dict) else dict(enumerate(node))
        own = {name: value for name, value in parts.items() if isinstance(name, str) and _is_tensor(value)}
        children = {
            str(name): self._tensors(value, _joined(path, name), depth + 1)
            for name, value in parts.items()
            if isinstance(value, (dict, list, tuple, StandIn))
            and isinstance(name, (str, int, bytes))
            and name not in own
        }
        inner = {name: tensors for name, tensors in children.items() if tensors is not None}
        is_flat = any("." in name for name in own)
        is_nested = isinstance(node, dict) and len(own) + len(inner) == len(node)
        # all of it is tensors: the names of a nested dict are its paths
        if is_nested and not is_flat and len(own) + sum(map(len, inner.values())) <= MOST_TENSORS:
            return own | {_joined(name, rest): t for name, tensors in inner.items() for rest, t in tensors.items()}
        for name, tensors in inner.items():
            self._add(_joined(path, name), tensors)
        if is_flat:
            dotted = {name: value for name, value in parts.items() if isinstance(name, str) and "." in name}
            own |= {name: stand_in for name, value in dotted.items() if (stand_in := _stand_in(value))}
        self._add(path, own)
        return None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but plain values beside the tensors."""
        return not (self.stand_ins or self.optimisers)

    def raise_nothing(self, tree: object) -> NoReturn:
        """Raises TransferError, with what there is instead of a state dict."""
        modules = [f"{path and path + ': '}{stand_in.name}" for path, stand_in in self.stand_ins.items()]
        if modules:
            what = f"it holds no state dict but objects whose code is not here ({_listed(modules)})"
            raise TransferError(f"{what}, such as a whole module; save model.state_dict() where that code is")
        if self.optimisers:
            raise TransferError("it holds the state of an optimiser and no weights; the model's file is another one")
        raise TransferError(
            f"it holds a {type(tree).__name__} and no tensors under their names, as a state dict has them; save "
            "model.state_dict()"
        )


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _stand_in(value: object) -> StandIn | None:
    """The stand-in that a value is or holds, as the packed parameters of a quantised layer do."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return next((each for each in values if isinstance(each, StandIn)), None)


def _is_tensor(value: object) -> bool:
    """Whether a value is a tensor, or one of a kind that is not known here."""
    return isinstance(value, np.ndarray) or (isinstance(value, StandIn) and value.name.startswith(REBUILD))
