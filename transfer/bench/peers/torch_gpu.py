"""PyTorch on a CUDA GPU: `torch.compile`, mode max-autotune (CUDA graphs included), channels last."""

from typing import Any

from transfer.bench.peers import torchvision_models
from transfer.bench.peers.case import Case, Prepared, Skipped


def compiled(case: Case) -> Prepared:
    """Returns from a call when the GPU has finished."""
    import torch

    if not torch.cuda.is_available():
        raise Skipped("this PyTorch sees no CUDA device")
    dtype = getattr(torch, case.dtype)
    # as ours: no TF32 behind the back of float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = torchvision_models.build(case).to("cuda", dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(case.channels_first()).to("cuda", dtype).to(memory_format=torch.channels_last)
    fast = torch.compile(model, mode="max-autotune")

    def call() -> Any:
        with torch.inference_mode():
            features = fast(images)
        torch.cuda.synchronize()
        return features

    return case.prepared(call, lambda features: features.float().cpu().numpy())
