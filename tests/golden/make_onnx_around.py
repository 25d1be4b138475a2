"""Records exports of networks with what people put around a backbone, without weights: `onnx_around.zip` beside this.

    pip install torch torchvision onnx onnxruntime onnxscript && python tests/golden/make_onnx_around.py

They are drawn as in the campaign `tests/campaigns/onnx_around.py`, of which this is the short form without PyTorch;
`cases.json` in the zip says what each is made of, and whether it was accepted or refused. `onnx_around_graphs.py`
fills them with seeded numbers.
"""

import json
import math
import random
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support"), str(HERE.parents[1])]

import onnx  # noqa: E402
import onnx_judge  # noqa: E402
import torch  # noqa: E402
from golden import onnx_around, onnx_around_graphs, onnx_graphs  # noqa: E402

CASES, SEED = 100, 18
# Larger initialisers are weights, whatever takes them.
LARGEST_CONSTANT = 256
# Quick to compile.
BACKBONES = ("lenet5", "alexnet", "vgg11_bn", "resnet18", "googlenet", "googlenet, transformed")


def stripped(path: Path) -> bytes:
    """The model of a file without the numbers of its weights; constants stay."""
    model = onnx.load(str(path))
    weights = {source for node in model.graph.node for source, _ in onnx_graphs.weights_of(node)}
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims)
        is_weight = (tensor.name in weights and size > 1) or size > LARGEST_CONSTANT
        if tensor.data_type == onnx.TensorProto.FLOAT and is_weight:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    for node in model.graph.node:
        for field in ("doc_string", "metadata_props"):
            node.ClearField(field)
    for field in ("value_info", "metadata_props", "doc_string"):
        model.graph.ClearField(field)
    model.ClearField("metadata_props")
    return model.SerializeToString()


def drawn(chosen: random.Random, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """A graph that PyTorch exports and ONNX Runtime runs, and what it is."""
    path = folder / "model.onnx"
    while True:
        plan = onnx_around.draw(chosen)
        if plan.backbone not in BACKBONES or plan.is_half or not onnx_around.export(plan, str(path)):
            continue
        content = stripped(path)
        onnx.save(onnx_around_graphs.filled(content), str(path))
        try:
            verdict = onnx_judge.judge(path, plan.case())
        except onnx_judge.NoJudge:
            continue
        return content, {**plan.case(), "exporter": plan.exporter, "outcome": verdict.outcome}


def main() -> None:
    """Writes the zip."""
    torch.set_num_threads(1)
    chosen, cases = random.Random(SEED), []
    with (
        zipfile.ZipFile(HERE / "onnx_around.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(CASES):
            content, case = drawn(chosen, Path(folder))
            cases.append(case)
            archive.writestr(zipfile.ZipInfo(f"{number:03}.onnx"), content, zipfile.ZIP_DEFLATED, 9)
            print(number, len(content), case["outcome"], *case["pieces"], flush=True)
        lines = ",\n".join(json.dumps(case) for case in cases)
        archive.writestr(zipfile.ZipInfo("cases.json"), f"[{lines}]\n", zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
