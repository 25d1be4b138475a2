"""What other libraries call the layers of our backbones: one file a family, named as its file in `transfer/models`.

Each defines `NAMES` (library -> function from our layer paths to theirs), `CLASSIFIER` (library -> prefixes of the
tensors that a backbone without classifier does not need) and, where a layer takes a flattened feature map,
`FLATTENED` (our layer -> cells of that map). A family may carry these three in its model file instead.
"""
