"""What other libraries call the layers of our backbones: one file a family, named as its file in `transfer/models`.

Each defines `NAMES` (library -> function from our layer paths to theirs), `CLASSIFIER` (library, or "native" where that
is more than the last layer -> prefixes of the tensors that a backbone without classifier does not need) and, where a
layer takes a flattened feature map, `FLATTENED` (our layer -> cells of that map). Optionally `EXCUSED` (library ->
prefixes of tensors that have no place here), `RENAMES` (library -> function from a file's tensors to the same under
the names of `NAMES`) and `SOURCES` (library -> function from the shapes of our arrays to the `names.Source` of those
that are no `LAYER.VARIABLE` of one tensor each, such as a token or a part of a fused qkv). A family may carry all
these in its model file instead.
"""

from collections.abc import Callable, Sequence

Names = Callable[[Sequence[str]], dict[str, str]]


def of_each(name: Callable[[str], str]) -> Names:
    """The names of layers by a function that knows the name of each from its own path alone."""
    return lambda layers: {layer: name(layer) for layer in layers}
