"""A plain PyTorch loop, written with care: nothing is copied twice, no metric fetched before its epoch has ended."""

from typing import Any

from transfer.bench.heads.case import EPSILON, LEARNING_RATE, HeadCase, accuracy
from transfer.bench.worker import Prepared, usable_cores


def loop(case: HeadCase) -> Prepared:
    """On the CPU, or on a GPU if PyTorch sees one."""
    import torch

    torch.set_num_threads(usable_cores())
    torch.manual_seed(case.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = case.arrays()

    def call() -> Any:
        x, y, validation_x, validation_y = (torch.from_numpy(array).to(device) for array in arrays)
        y, validation_y = y.long(), validation_y.long()
        head = torch.nn.Linear(case.features, case.classes, device=device)
        torch.nn.init.xavier_uniform_(head.weight)
        torch.nn.init.zeros_(head.bias)
        optimiser = torch.optim.Adam(head.parameters(), LEARNING_RATE, eps=EPSILON, fused=True)
        for _ in range(case.epochs):
            loss, right = _epoch(head, optimiser, x, y, case.batch)
            metrics = [loss.item() / len(x), right.item() / len(x)]
            if case.validates:
                metrics += [value.item() for value in _evaluate(head, validation_x, validation_y)]
        return head

    def score(head: Any) -> float:
        with torch.inference_mode():
            return accuracy(head(torch.from_numpy(arrays[2]).to(device)).cpu().numpy(), arrays[3])

    return Prepared(call, score)


def _epoch(head: Any, optimiser: Any, x: Any, y: Any, batch: int) -> tuple[Any, Any]:
    """Summed loss and right answers of the batches, each before its step; both stay on the device."""
    import torch

    loss_sum, right = torch.zeros((), device=x.device), torch.zeros((), device=x.device, dtype=torch.int64)
    for rows in torch.randperm(len(x), device=x.device).split(batch):
        taken, labels = x[rows], y[rows]
        scores = head(taken)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        loss_sum += loss.detach() * len(rows)
        right += (scores.detach().argmax(1) == labels).sum()
    return loss_sum, right


def _evaluate(head: Any, x: Any, y: Any) -> tuple[Any, Any]:
    import torch

    with torch.inference_mode():
        scores = head(x)
        return torch.nn.functional.cross_entropy(scores, y), (scores.argmax(1) == y).float().mean()
