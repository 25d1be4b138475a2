"""Where a feature store comes from: the config that it was made with, hence its source and its extractor."""

import json
import tempfile
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.data.source import Source, select
from transfer.data.splits import SPLITS, make_splits
from transfer.errors import TransferError, UsageError
from transfer.experiment import config_file
from transfer.runtime import compilation_cache
from transfer.runtime.files import bucket
from transfer.store import images as store_images
from transfer.store.format import SKIPPED, open_array, read_metadata
from transfer.store.store import FeatureStore
from transfer.store.writer import new_metadata

if TYPE_CHECKING:
    from transfer.extract.extractor import Extractor


class Origin:
    """The source and the extractor of the store of the split `split`; each is opened or built when it is asked for."""

    def __init__(self, config: ConfigDict, split: str, workdir: str | None = None) -> None:
        self.config, self.split, self.workdir = config, split, workdir

    @cached_property
    def source(self) -> Source:
        """The images of the split. Raises UsageError for a name that is no split."""
        if self.split not in self._sources:
            raise UsageError(f"{self.split!r} is not one of {', '.join(self._sources)}: pass --split")
        return self._sources[self.split]

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return dict(zip(SPLITS, make_splits(self.config.data), strict=True))

    @cached_property
    def extractor(self) -> "Extractor":
        """The backbone as `extract.py` runs it."""
        from transfer.runtime.devices import use_cores

        compilation_cache.enable()
        use_cores()
        from transfer.experiment.backbone import build_extractor

        return build_extractor(self.config)

    def check_source(self, path: str, metadata: dict[str, Any]) -> None:
        """Raises TransferError unless the store was made from this very source."""
        if metadata["fingerprint"].get("images") == self.source.fingerprint:
            return
        beside = epath.Path(path).parent  # an image may have come to the other split
        stores = {str(beside / split): source for split, source in self._sources.items()} | {path: self.source}
        changes = store_images.changes({at: source for at, source in stores.items() if read_metadata(at) is not None})
        raise TransferError(
            f"the feature store {path} was made from other images ({metadata['data']}) than those of "
            f"{self.source.name}: {changes or 'the config is another, or the images have changed'}"
        )

    def metadata(self) -> dict[str, Any]:
        """Of a store that this config begins, but for the width of the ids."""
        import jax

        return new_metadata(
            taps=self.extractor.shapes,
            num_images=len(self.source),
            class_names=self.source.class_names,
            data=self.source.name,
            fingerprint={**self.extractor.fingerprint(), "images": self.source.fingerprint},
            batch_size=self.extractor.batch_size,
            provenance={"device": jax.devices()[0].device_kind, "jax": jax.__version__},
            features_dtype=self.config.get("features_dtype", "float32"),
            content=store_images.reader(self.source) is not None,
        )

    def check_reproduces(self, path: str, metadata: dict[str, Any], damaged: Sequence[tuple[int, int]]) -> None:
        """Raises TransferError unless this network gives the features of a batch that is whole, to 2 % of the largest.

        For metadata that are lost: nothing else binds a store to its network.
        """
        from transfer.extract.to_store import extract_to_store

        batch = _first_whole(path, metadata, damaged)
        if batch is None:
            return
        rows, checks = batch
        there = rows.start + np.flatnonzero(checks != SKIPPED)
        self._use_batches_of(metadata)
        with tempfile.TemporaryDirectory() as folder:
            sample = extract_to_store(self.extractor, select(self.source, there), folder, title="sample")
            for tap in metadata["taps"]:
                found = open_array(path, metadata, f"features/{tap}", assume=True).read(there).astype(np.float32)
                wanted = sample.tap(tap)[:].astype(np.float32)
                if np.abs(found - wanted).max() > 0.02 * np.abs(wanted).max():
                    raise TransferError(
                        f"{path}: the network of the config gives other features than those of the rows {there[0]} to "
                        f"{there[-1]}, so the config is not the one that the store was made with"
                    )

    def _use_batches_of(self, metadata: dict[str, Any]) -> None:
        if self.config.batch_size != metadata["batch_size"]:
            with self.config.unlocked():
                self.config.batch_size = metadata["batch_size"]
            vars(self).pop("extractor", None)

    def complete(self, path: str, metadata: dict[str, Any]) -> FeatureStore:
        """Extracts the rows that the store at `path` lacks, in its own batches."""
        from transfer.extract.to_store import extract_to_store

        self._use_batches_of(metadata)
        on_error = "skip" if metadata["skipped_rows"] else self.config.on_error
        title, dtype = f"repair {self.split}", metadata["features_dtype"]
        return extract_to_store(self.extractor, self.source, path, on_error, title, features_dtype=dtype)


def _first_whole(
    path: str, metadata: dict[str, Any], damaged: Sequence[tuple[int, int]]
) -> tuple[slice, np.ndarray] | None:
    """The rows and checksums of the first batch that is there, not damaged and has an image; None if there is none."""
    checks = open_array(path, metadata, "checks", assume=True)
    bad = {start for first, stop in damaged for start in range(first, stop, metadata["batch_size"])}
    for start in range(0, metadata["num_images"], metadata["batch_size"]):
        rows = slice(start, min(start + metadata["batch_size"], metadata["num_images"]))
        if start not in bad and (found := checks.read(rows)).all() and (found != SKIPPED).any():
            return rows, found
    return None


def of_workdir(workdir: Any, split: str) -> Origin | None:
    """By the `config.json` of a run's workdir, None where there is none; TransferError if that is damaged."""
    path = bucket.open_path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        config = settings.default()
        config.update(found)
    except (ValueError, TypeError, KeyError) as error:
        raise TransferError(f"{path} is not the config of a run ({error})") from error
    return Origin(config, split, str(workdir))


def of_config(file: str, split: str) -> Origin:
    """By a config file, as `extract.py --config=FILE` without overrides; UsageError where it is missing or wrong."""
    return Origin(config_file.load(file), split)
