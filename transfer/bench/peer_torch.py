"""PyTorch: torchvision's network with our weights; eager, compiled for a CPU or a GPU, and exported as ONNX."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision

from transfer.bench.peer_libraries import ONNX, PeerCase
from transfer.bench.worker import Prepared, Skipped, usable_cores
from transfer.weights.names import COUNTERS, libraries, name_map

# Settings of torchvision's, by architecture, that ours has not.
SETTINGS: dict[str, dict[str, Any]] = dict.fromkeys(
    ("googlenet", "inception_v3"), {"aux_logits": False, "init_weights": False}
)
# Settings that both have.
SHARED = ("transform_input",)


def eager(case: PeerCase) -> Prepared:
    """Runs the network as it is on a CPU, channels last: one oneDNN call a layer."""
    return _on_cpu(case, lambda model: model)


def compiled(case: PeerCase) -> Prepared:
    """Compiles for a CPU by `torch.compile` with `freezing`, which folds batch norm and lays kernels out ahead.

    The fastest that it has: up to 1.3 times the speed of the default, and mode max-autotune adds nothing to it.
    """
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return _on_cpu(case, torch.compile)


def compiled_on_gpu(case: PeerCase) -> Prepared:
    """Compiles for a CUDA GPU, channels last: `torch.compile` in mode max-autotune, CUDA graphs included."""
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch sees no CUDA device")
    # as ours: float32 is not multiplied as TF32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, images = _model_and_images(case)
    fast, images = torch.compile(model.to("cuda"), mode="max-autotune"), images.to("cuda")

    def call() -> Any:
        with torch.inference_mode():
            features = fast(images)
        torch.cuda.synchronize()
        return features

    return case.prepared(call, lambda features: features.float().cpu().numpy())


def export(case: PeerCase) -> Prepared:
    """Writes the network as ONNX into the case's folder, float32, for the runtimes that read it."""
    model, images = build(case), torch.from_numpy(case.channels_first())
    torch.onnx.export(model, (images,), case.folder / ONNX, input_names=["images"], dynamo=True, verbose=False)
    return Prepared(lambda: None, lambda _: None)


def build(case: PeerCase) -> torch.nn.Module:
    """torchvision's network in inference mode, filled with our weights: (B, 3, H, W) -> (B, D), the pooled features.

    Raises:
      Skipped: torchvision has no such network, or ours differs from it.
    """
    arch = case.arch
    if arch not in torchvision.models.list_models(module=torchvision.models) or "torchvision" not in libraries(arch):
        raise Skipped(f"torchvision has no {arch}")
    fields = {name: case.fields[name] for name in SHARED if name in case.fields}
    model = torchvision.models.get_model(arch, weights=None, **SETTINGS.get(arch, {}), **fields)
    _load(model, case)
    if hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
        return model.eval()
    return torch.nn.Sequential(model.features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()


def _load(model: torch.nn.Module, case: PeerCase) -> None:
    arrays = case.weights()
    names = name_map(case.arch, "torchvision", {path: array.shape for path, array in arrays.items()})
    tensors = {}
    for path, source in names.sources.items():
        array = arrays[path]
        kernel = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array  # HWIO -> OIHW
        tensors[source.name] = torch.from_numpy(kernel.copy())
    theirs = {name: tensor.shape for name, tensor in model.state_dict().items()}
    differing = sorted(name for name, tensor in tensors.items() if theirs.get(name) != tensor.shape)
    unfilled = sorted(
        name for name in theirs.keys() - tensors.keys() if not names.in_classifier(name) and not name.endswith(COUNTERS)
    )
    if differing or unfilled:
        raise Skipped(f"torchvision's {case.arch} is another network: its {[*differing, *unfilled][0]} differs")
    model.load_state_dict(tensors, strict=False)


def _model_and_images(case: PeerCase) -> tuple[torch.nn.Module, torch.Tensor]:
    form: Any = {"dtype": getattr(torch, case.dtype), "memory_format": torch.channels_last}
    return build(case).to(**form), torch.from_numpy(case.channels_first()).to(**form)


def _on_cpu(case: PeerCase, compiled: Callable[[torch.nn.Module], Any]) -> Prepared:
    torch.set_num_threads(usable_cores())
    model, images = _model_and_images(case)
    fast = compiled(model)

    def call() -> Any:
        # freezing wants no gradients and refuses the tensors of inference mode
        with torch.no_grad():
            return fast(images)

    return case.prepared(call, lambda features: features.float().numpy())
