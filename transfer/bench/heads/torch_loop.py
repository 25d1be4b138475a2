"""A plain PyTorch loop, written with care: nothing is copied twice, no metric fetched before its epoch has ended."""

from typing import Any

import torch

from transfer.bench.heads.case import EPSILON, LEARNING_RATE, HeadCase, accuracy
from transfer.bench.worker import Prepared, usable_cores


def loop(case: HeadCase) -> Prepared:
    """On the CPU, or on a GPU if PyTorch sees one."""
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
            loss, correct = _epoch(head, optimiser, x, y, case.batch)
            metrics = [loss.item() / len(x), correct.item() / len(x)]
            if case.validates:
                with torch.inference_mode():
                    scores = head(validation_x)
                    loss = torch.nn.functional.cross_entropy(scores, validation_y)
                    accurate = (scores.argmax(1) == validation_y).float().mean()
                metrics += [loss.item(), accurate.item()]
        return head

    def score(head: Any) -> float:
        with torch.inference_mode():
            return accuracy(head(torch.from_numpy(arrays[2]).to(device)).cpu().numpy(), arrays[3])

    return Prepared(call, score)


def _epoch(head: Any, optimiser: Any, x: Any, y: Any, batch: int) -> tuple[Any, Any]:
    """Summed loss and number of correct rows of the batches, each before its step; both stay on the device."""
    loss_sum, correct = torch.zeros((), device=x.device), torch.zeros((), device=x.device, dtype=torch.int64)
    for rows in torch.randperm(len(x), device=x.device).split(batch):
        labels, scores = y[rows], head(x[rows])
        loss = torch.nn.functional.cross_entropy(scores, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        loss_sum += loss.detach() * len(rows)
        correct += (scores.detach().argmax(1) == labels).sum()
    return loss_sum, correct
