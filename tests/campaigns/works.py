"""The kinds of work that campaigns interrupt: a command of a user's, and what it leaves."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import source
from tests.campaigns.figures import REPOSITORY
from tests.support import measured
from transfer.store.images import SEEN

CONFIG = f"--config={Path(__file__).parent / 'small.py'}"


@dataclass(frozen=True)
class Work:
    """A command, and what it leaves in the folder that it runs in.

    Attributes:
        share: of all moments, relative to the others'.
        command: script and arguments; paths are relative to the folder.
        begun: patterns of the files of which the first that is made or changed starts the clock.
        results: folder -> {what: digest}, what is compared at the end.
            Asked after a kill, it leaves out what no reader would take for whole; the rest must be right then too.
        places: how often it is killed at a place; less where TensorStore writes the files, which Python does not see.
        given: links in the folder to what the command needs: (name, work that made it, path in its folder); without
            a work, the path is in the campaign's own folder.
    """

    share: float
    command: tuple[str, ...]
    begun: tuple[str, ...]
    results: Callable[[Path], dict[str, str]]
    places: float = 0.5
    given: tuple[tuple[str, str | None, str], ...] = ()


def make_images(folder: Path, rows: int = 90, broken: Collection[int] = (6, 40, 41)) -> None:
    """Small PNGs of three classes, `broken` ones cut short."""
    from PIL import Image

    for row in range(rows):
        pixels = random.Random(row).randbytes(12 * 12 * 3)
        path = folder / f"class{row % 3}" / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (12, 12), pixels).save(path)
        if row in broken:
            path.write_bytes(path.read_bytes()[:40])


def make_sources(folder: Path, rows: int = 90) -> None:
    """The same images in every form that they may be stored in: a table, shards, arrays."""
    import h5py
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    make_images(folder / "images", rows, broken=())
    files = [folder / "images" / f"class{row % 3}" / f"{row:03d}.png" for row in range(rows)]
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in files]
    (folder / "table.csv").write_text("\n".join(["path,label", *lines]))
    for shard in range(3):
        with tarfile.open(folder / f"shard_{shard}.tar", "w") as tar:
            for path in files[shard::3]:
                tar.add(path, path.name)
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(path.parent.name[-1:].encode()))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    table = pyarrow.table({"image": images, "label": [row % 3 for row in range(rows)]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=16)
    with h5py.File(folder / "arrays.h5", "w") as file:
        pixels = [random.Random(row).randbytes(12 * 12 * 3) for row in range(rows)]
        file["images"] = np.frombuffer(b"".join(pixels), np.uint8).reshape(rows, 12, 12, 3)
        file["labels"] = np.arange(rows) % 3


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole_files(folder: Path, *patterns: str) -> dict[str, str]:
    """Digest of each file that matches; hidden ones are nobody's to read."""
    found = [p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()]
    return {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in found if not p.name.startswith(".")}


def of_stores(folder: Path) -> dict[str, str]:
    """Every file of complete stores; of others nothing, for nobody would open them.

    But for dates of images, which are other ones for each copy of them.
    """
    digests = {}
    for store in sorted(folder.glob("run/features/*/zarr.json")):
        if not json.loads(store.read_text())["attributes"]["complete"]:
            continue
        files = [p for p in sorted(store.parent.rglob("*")) if p.is_file() and not is_temporary(p)]
        files = [p for p in files if p.name != SEEN]
        digests |= {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in files}
    return digests


def is_temporary(path: Path) -> bool:
    """What a killed writer leaves, which no reader looks at: TensorStore's and our own."""
    return path.name.endswith("__lock") or path.name == ".lock"


def of_training(folder: Path) -> dict[str, str]:
    """Metrics, result and checkpoint of a run that has a result."""
    run = folder / "run"
    if not (run / "result.json").exists():
        return {}
    result = json.loads((run / "result.json").read_text())
    for name in ("seconds_train", "seconds_extract", "dataset"):
        result.pop(name)
    digests = {"result.json": sha256(json.dumps(result, sort_keys=True).encode())}
    digests["metrics.jsonl"] = sha256(json.dumps(measured.rows(run)).encode())
    return digests | of_checkpoint(run)


def of_checkpoint(run: Path) -> dict[str, str]:
    """The arrays in the newest checkpoint; its files hold random names and times."""
    import jax
    import orbax.checkpoint as ocp

    steps = [int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()]
    digests = {"step": str(max(steps))}
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("latest", "best"):
            tree = jax.device_get(checkpointer.restore(run.resolve() / "checkpoints" / str(max(steps)) / item))
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                digests[f"{item}{jax.tree_util.keystr(path)}"] = sha256(leaf.tobytes())
    return digests


TRAIN = ("train.py", CONFIG, "--training_file=train.npz", "--validation_file=validation.npz", "--workdir=run")
FILES = tuple((f"{split}.npz", "export_npz", f"out_{split}.npz") for split in ("train", "validation"))
STORES_BEGUN = ("run/features/*", "run/features/*/*/c")
# Two taps, images decoded by threads, some of which cannot be read.
OF_FILES = ("extract.py", CONFIG, "--workdir=run", "--config.data.source=folder:images", "--config.on_error=skip") + (
    "--config.tap=block1,pre_logits",
    "--config.batch_size=4",
)
# A store of shards, saved every few hundredths of a second as far as it is.
OF_SHARDS = ("extract.py", f"--config={Path(__file__).parent / 'shards.py'}", "--workdir=run")
STORES = (("features", "extraction", "run/features"),)
SHIPPED = REPOSITORY / "transfer" / "weights" / "files" / "vgg11_slim.cifar10.safetensors"


STREAMED = (
    *("train.py", CONFIG, "--workdir=run", "--config.features=features"),
    *("--config.stream=True", "--config.head.order=chunks", "--config.head.epochs=3"),
)


FINETUNED = (
    *("train.py", CONFIG, "--workdir=run", "--config.train=finetune", "--config.report=False"),
    *("--config.tap=pre_logits", "--config.batch_size=64", "--config.data.train_per_class=12"),
    *("--config.data.validation_per_class=4", "--config.finetune.epochs=12", "--config.finetune.batch_size=16"),
    *("--config.finetune.optimizer=adamw", "--config.finetune.learning_rate=0.01", "--config.finetune.warmup_epochs=1"),
    *("--config.finetune.head_learning_rate=0.01", "--config.finetune.keep=best", "--config.finetune.patience=2"),
)


def of_finetuning(folder: Path) -> dict[str, str]:
    """What training leaves, and the network and its predictions."""
    return of_training(folder) and of_training(folder) | whole_files(folder, "run/*.safetensors", "run/*.npz")


def export(suffix: str, share: float) -> Work:
    command = ("extract.py", CONFIG, "--workdir=run", "--config.features=features", f"--config.export=out{suffix}")
    return Work(share, command, (".out_*",), lambda folder: whole_files(folder, f"out_*{suffix}"), given=STORES)


def extraction_of(source: str) -> Work:
    command = ("extract.py", CONFIG, "--workdir=run", f"--config.data.source={source}", "--config.batch_size=4")
    return Work(0.02, command, STORES_BEGUN, of_stores, 0.2, (("sources", None, "sources"),))


SOURCES = {
    "extraction_of_table": extraction_of("csv:sources/table.csv"),
    "extraction_of_tars": extraction_of("wds:sources/shard_{0..2}.tar"),
    "extraction_of_parquet": extraction_of("parquet:sources/rows.parquet"),
    "extraction_of_arrays": extraction_of("h5:sources/arrays.h5"),
}
WORKS = {
    "extraction": Work(0.09, ("extract.py", CONFIG, "--workdir=run"), STORES_BEGUN, of_stores, 0.2),
    "extraction_of_files": Work(0.1, OF_FILES, STORES_BEGUN, of_stores, 0.2, (("images", None, "images"),)),
    "extraction_of_shards": Work(0.1, OF_SHARDS, STORES_BEGUN, of_stores, 0.2),
    "head": Work(0.15, TRAIN, ("run/metrics.jsonl",), of_training, given=FILES),
    "head_streamed": Work(0.15, STREAMED, ("run/metrics.jsonl", "run/checkpoints*"), of_training, given=STORES),
    "finetuned": Work(0.05, FINETUNED, ("run/metrics.jsonl", "run/checkpoints*"), of_finetuning),
    "checkpoint": Work(0.15, TRAIN, ("run/checkpoints/*tmp*",), of_training, given=FILES),
    "export_npz": export(".npz", 0.06),
    "export_pickle": export(".p", 0.06),
    "export_safetensors": export(".safetensors", 0.06),
    "download": Work(
        0.1,
        ("transfer", "weights", "fetch", source.RECORD),
        ("cache/.*.part",),
        lambda folder: whole_files(folder, "cache/*"),
    ),
    "convert": Work(
        0.05,
        ("transfer", "convert", str(SHIPPED), "--model=vgg11_slim.cifar10", "--output=out.safetensors"),
        (".out*",),
        lambda folder: whole_files(folder, "out.safetensors"),
    ),
    **SOURCES,
}
