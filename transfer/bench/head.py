"""`python -m transfer bench --head`: our training of the published head beside that of others, the same recipe.

The recipe: a linear layer with softmax, Glorot-uniform kernel, zero bias, Adam (1e-3, epsilon 1e-7), a fresh shuffle
each epoch, the last partial batch kept, metrics of every epoch. The cases named sweep are another: logistic
regression at its optimum, for a grid of penalties.

Each contender is warm, in a process of its own that sleeps while others run, and trains from NumPy arrays (or is a
whole process, from the shell on); accuracy stands beside the time. A contender is a function, which its process calls
(see `worker`); what only one of them needs is imported by it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.bench.worker import Prepared, Skipped, Worker, require, usable_cores
from transfer.runtime import tables
from transfer.runtime.timing import interleaved, median_ratio

LEARNING_RATE, EPSILON = 1e-3, 1e-7  # of Adam
# Distance of the classes' centres from the origin over the noise's deviation, so that a head errs on some rows.
SEPARATION = 0.2
FILE = "rows.npz"
LOGISTIC = Path(__file__).with_name("logistic_script.py")


@dataclasses.dataclass(frozen=True)
class HeadCase:
    """A training run that is timed.

    Attributes:
      title: for a person.
      rows, features, classes: of the training set.
      validation_rows: of the rows that accuracy is measured on.
      validates: whether those are evaluated after every epoch, or only after training, outside of the time.
      epochs: 0 where nothing is trained by epochs.
      batch: rows a step; the last batch of an epoch has what is left.
      seed: of the data, the first weights and the shuffles.
      folder: holds the arrays.
    """

    title: str
    rows: int
    features: int
    epochs: int
    batch: int = 256
    classes: int = 10
    validation_rows: int = 10_000
    validates: bool = True
    seed: int = 0
    folder: Path = Path()

    def write(self) -> None:
        """Fills the folder: classes are directions with noise around them, cut at zero as pooled ReLUs are."""
        generator = np.random.default_rng(self.seed)
        centres = generator.standard_normal((self.classes, self.features), np.float32)
        arrays = []
        for rows in (self.rows, self.validation_rows):
            labels = generator.integers(0, self.classes, rows, dtype=np.int32)
            features = generator.standard_normal((rows, self.features), np.float32)
            features += np.float32(SEPARATION * np.sqrt(512 / self.features)) * centres[labels]
            arrays += [np.maximum(features, 0, out=features), labels]
        np.savez(self.folder / FILE, *arrays)

    def arrays(self) -> list[np.ndarray]:
        """Features (N, D) float32 and labels (N,) int32, those of training and those of validation."""
        with np.load(self.folder / FILE) as file:
            return list(file.values())


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows (N, C) whose largest score is the label's."""
    return float((scores.argmax(axis=1) == labels).mean())


def train_script(case: HeadCase) -> Prepared:
    """The part of `train.py` between reading files and writing a checkpoint: metrics are fetched every epoch."""
    import jax.numpy as jnp

    from transfer.experiment.train_head import AHEAD
    from transfer.heads.programs import LINEAR
    from transfer.training.loop import dispatch_ahead, whole_epochs

    x, y, validation_x, validation_y = case.arrays()
    rows = (x, y, validation_x, validation_y) if case.validates else (x, y)

    def call() -> Any:
        epoch = LINEAR.make_epoch(*rows, batch_size=case.batch, learning_rate=LEARNING_RATE, seed=case.seed)
        state = LINEAR.init_state(case.features, case.classes, LINEAR.init_key(case.seed))
        parts = dispatch_ahead(whole_epochs(epoch)(state, range(case.epochs)), AHEAD)
        [(latest, _)] = deque(((part.state, part.metrics()) for part in parts if part.metrics), maxlen=1)
        return latest["params"]

    def score(params: Any) -> float:
        return accuracy(np.asarray(LINEAR.logits(params, jnp.asarray(validation_x))), validation_y)

    return Prepared(call, score)


def linear_probe(case: HeadCase) -> Prepared:
    """`LinearProbe.fit`."""
    from transfer.heads.linear_probe import LinearProbe

    x, y, *rest = case.arrays()
    validation: Any = tuple(rest) if case.validates else None

    def call() -> Any:
        return LinearProbe(case.epochs, case.batch, LEARNING_RATE, seed=case.seed).fit(x, y, validation_data=validation)

    return Prepared(call, lambda probe: probe.score(*rest))


def torch_loop(case: HeadCase) -> Prepared:
    """A plain PyTorch loop, on a GPU if PyTorch sees one: no array copied twice, no metric fetched within an epoch."""
    import torch

    torch.set_num_threads(usable_cores())
    torch.manual_seed(case.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = case.arrays()

    def train_epoch(head: Any, optimiser: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """Summed loss and number of correct rows of the batches, each before its step; both stay on the device."""
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64)
        for rows in torch.randperm(len(x), device=device).split(case.batch):
            labels, scores = y[rows], head(x[rows])
            loss = torch.nn.functional.cross_entropy(scores, labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            loss_sum += loss.detach() * len(rows)
            correct += (scores.detach().argmax(1) == labels).sum()
        return loss_sum, correct

    def call() -> Any:
        x, y, validation_x, validation_y = (torch.from_numpy(array).to(device) for array in arrays)
        y, validation_y = y.long(), validation_y.long()
        head = torch.nn.Linear(case.features, case.classes, device=device)
        torch.nn.init.xavier_uniform_(head.weight)
        torch.nn.init.zeros_(head.bias)
        optimiser = torch.optim.Adam(head.parameters(), LEARNING_RATE, eps=EPSILON, fused=True)
        for _ in range(case.epochs):
            loss, correct = train_epoch(head, optimiser, x, y)
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


def keras_fit(case: HeadCase, new: bool = False) -> Prepared:
    """Keras' `fit` on its JAX backend, as the published lab calls it.

    Compiled once; every call starts from the first weights and a new state of Adam. `new`: a new model every time.
    """
    os.environ["KERAS_BACKEND"] = "jax"  # whatever the environment says
    import keras

    x, y, *validation = case.arrays()

    def compiled() -> Any:
        keras.utils.set_random_seed(case.seed)
        layer = keras.layers.Dense(case.classes, activation="softmax")
        model = keras.Sequential([keras.Input((case.features,)), layer])
        adam = keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)
        model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
        adam.build(model.trainable_variables)
        return model

    warm = compiled()
    first = [(variable, variable.numpy()) for variable in (*warm.variables, *warm.optimizer.variables)]

    def call() -> Any:
        model = compiled() if new else warm
        for variable, value in () if new else first:
            variable.assign(value)
        evaluated = tuple(validation) if case.validates else None
        model.fit(x, y, case.batch, case.epochs, verbose=0, validation_data=evaluated)
        return model

    return Prepared(call, lambda model: accuracy(model.predict(validation[0], verbose=0), validation[1]))


def keras_fit_new(case: HeadCase) -> Prepared:
    """A new model every time, as who trains another head has it: Keras compiles each anew."""
    return keras_fit(case, new=True)


def logistic_regression(case: HeadCase) -> Prepared:
    """scikit-learn's at its defaults on rows as they are, in as many iterations as these allow, maybe too few."""
    from sklearn.linear_model import LogisticRegression

    x, y, *validation = case.arrays()
    return Prepared(lambda: LogisticRegression().fit(x, y), lambda head: float(head.score(*validation)))


def logistic_grid(case: HeadCase) -> Prepared:
    """The 45 penalties of DINOv2's evaluation on standardised rows, in one `fit_many`.

    Its accuracy, as that of `logistic_regression_grid`, is the highest of all on the validation rows, an upper bound;
    choosing one is another matter (`transfer.sweep`).
    """
    from transfer.heads.logistic_probe import GRID, LogisticProbe

    x, y, validation_x, validation_y = case.arrays()
    return Prepared(
        lambda: LogisticProbe().fit_many(x, y, {"C": GRID}),
        lambda scores: max(accuracy(logits, validation_y) for logits in scores(validation_x)),
    )


def logistic_regression_grid(case: HeadCase) -> Prepared:
    """scikit-learn's at each of the 45 penalties, at its default tolerance and 1,000 iterations, as DINOv2's."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from transfer.heads.logistic_probe import GRID

    x, y, validation_x, validation_y = case.arrays()

    def call() -> tuple[Any, list[Any]]:
        scaler = StandardScaler().fit(x)
        return scaler, [LogisticRegression(C=value, max_iter=1000).fit(scaler.transform(x), y) for value in GRID]

    def score(fitted: tuple[Any, list[Any]]) -> float:
        scaler, heads = fitted
        rows = scaler.transform(validation_x)
        return max(float(head.score(rows, validation_y)) for head in heads)

    return Prepared(call, score)


def train_process(case: HeadCase) -> Prepared:
    """`transfer train`, each time in a new workdir; what the first call compiled is in JAX's cache from then on."""
    training, validation = feature_files(case)

    def call() -> float:
        with tempfile.TemporaryDirectory(dir=case.folder) as workdir:
            flags = [f"--training_file={training}", f"--validation_file={validation}", f"--workdir={workdir}"]
            run(["-m", "transfer", "train", *flags, f"--epochs={case.epochs}", f"--batch_size={case.batch}"])
            return json.loads((Path(workdir) / "result.json").read_text())["validation_accuracy"]

    return Prepared(call, float)


def logistic_process(case: HeadCase) -> Prepared:
    """`logistic_script.py`."""
    files = feature_files(case)
    return Prepared(lambda: run([str(LOGISTIC), *map(str, files)]), float)


def feature_files(case: HeadCase) -> list[Path]:
    """The case's arrays as the lab published them, `{'features': (N, 1, 1, D), 'labels': (N, 1)}`."""
    x, y, validation_x, validation_y = case.arrays()
    paths = []
    for name, features, labels in (("train", x, y), ("validation", validation_x, validation_y)):
        content = {"features": features.reshape(len(features), 1, 1, -1), "labels": labels.reshape(-1, 1)}
        paths.append(case.folder / f"{name}.p")
        paths[-1].write_bytes(pickle.dumps(content))
    return paths


def run(arguments: list[str]) -> str:
    """The output of `python ARGUMENTS`; Skipped where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Skipped(f"python {arguments[0]} ended with exit code {done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout


# Contender -> the function above that prepares it, and the packages that it needs. Ours
# comes first; a new one is one function and one line.
Trainers = Mapping[str, tuple[str, ...]]
TRAINERS: Trainers = {
    "ours (train.py)": ("train_script",),
    "ours (LinearProbe)": ("linear_probe",),
    "PyTorch loop": ("torch_loop", "torch"),
    "Keras fit (JAX)": ("keras_fit", "keras"),
    "Keras fit (JAX), new model": ("keras_fit_new", "keras"),
    "scikit-learn LogisticRegression": ("logistic_regression",),
}
PROCESSES: Trainers = {
    "ours (train.py)": ("train_process",),
    "scikit-learn LogisticRegression": ("logistic_process",),
}
SWEEPERS: Trainers = {
    "ours, 45 C (fit_many)": ("logistic_grid",),
    "scikit-learn, 45 C": ("logistic_regression_grid",),
}
# Name on the command line -> what is trained on, and by whom.
CASES: dict[str, tuple[HeadCase, Trainers]] = {
    "small": (HeadCase("1,000 x 512, 50 epochs, 10,000 validation rows every epoch", 1_000, 512, 50), TRAINERS),
    "large": (HeadCase("50,000 x 2,048, 10 epochs", 50_000, 2_048, 10, validates=False), TRAINERS),
    "process": (HeadCase("whole processes, 1,000 x 512, 50 epochs, 10,000 validation rows", 1_000, 512, 50), PROCESSES),
    "sweep": (HeadCase("45 C values, 1,000 x 512", 1_000, 512, 0), SWEEPERS),
    "sweep_large": (HeadCase("45 C values, 10,000 x 512", 10_000, 512, 0), SWEEPERS),
}


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each case of `options.head_cases`, of `options.rounds` and `options.seconds`; see `measure`."""
    from transfer.bench.cases import chosen  # which brings what the processes of others do without

    for name in chosen("head_cases", options.head_cases, CASES):
        case, trainers = CASES[name]
        yield measure(dataclasses.replace(case, seed=options.seed), trainers, options.rounds, options.seconds)


def measure(case: HeadCase, trainers: Trainers, rounds: int = 5, seconds: float = 0.5) -> dict[str, Any]:
    """Times every contender of a case in interleaved rounds.

    Returns:
      JSON-able: "kind", "case" and its sizes; "ours", the first contender; "seconds", contender -> seconds a training,
      one figure a round; "accuracy", contender -> on the validation rows; "ratio", contender -> how many times faster
      ours is, the median over rounds; "skipped", contender -> why.
    """
    workers: dict[str, Worker] = {}
    skipped = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="transfer_heads_"))
        case = dataclasses.replace(case, folder=Path(folder))
        case.write()
        for name, (function, *packages) in trainers.items():
            try:
                require(packages)
                workers[name] = Worker(f"{__name__}:{function}", case)
                stack.callback(workers[name].close)
            except Skipped as reason:
                skipped[name] = str(reason)
        samples = interleaved(workers, rounds, warmup=1, seconds=seconds)
    for name in [name for name, worker in workers.items() if worker.failed]:
        skipped[name] = workers[name].failed
        del samples[name]
    ours = next(iter(trainers))
    sizes = {key: value for key, value in dataclasses.asdict(case).items() if key not in ("title", "folder")}
    return {
        "kind": "head",
        "case": case.title,
        **sizes,
        "ours": ours,
        "seconds": samples,
        "accuracy": {name: round(worker.report, 4) for name, worker in workers.items()},
        "ratio": {name: median_ratio(samples[ours], seconds) for name, seconds in samples.items() if ours in samples},
        "skipped": skipped,
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as text: seconds (median), accuracy, and how many times ours each takes."""
    parts = []
    for row in rows:
        lines = [["trainer", "seconds", "accuracy", "times ours"]]
        for name, seconds in row["seconds"].items():
            ratio = f"{row['ratio'][name]:.2f}" if name in row["ratio"] else ""
            lines.append([name, f"{statistics.median(seconds):.3f}", f"{row['accuracy'][name]:.4f}", ratio])
        lines += [[name, "-", "-", f"skipped: {reason}"] for name, reason in row["skipped"].items()]
        parts.append(f"Head, {row['case']}\n{tables.text(lines, left=1)}")
    return "\n\n".join(parts)
