"""Where a feature store comes from: the config that it was made with, hence its source and its extractor."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from transfer.data.source import Source
from transfer.data.splits import SPLITS, make_splits
from transfer.errors import TransferError, UsageError
from transfer.experiment import config_file
from transfer.experiment.workdirs import FILE, read_config
from transfer.runtime import cache
from transfer.runtime.files import paths
from transfer.store import images as store_images
from transfer.store.format import read_metadata
from transfer.store.store import FeatureStore


@dataclass
class Origin:
    """The config behind the store of the split `split`; its source is opened and its network built when needed."""

    config: ConfigDict
    split: str
    workdir: str | None = None

    @cached_property
    def _sources(self) -> dict[str, Source]:
        """The images of both splits."""
        return dict(zip(SPLITS, make_splits(self.config.data, self.config.on_error), strict=True))

    @property
    def source(self) -> Source:
        """The images of the split. Raises UsageError for a name that is no split."""
        if self.split not in self._sources:
            raise UsageError(f"{self.split!r} is not one of {', '.join(self._sources)}: pass --split")
        return self._sources[self.split]

    def check_source(self, path: str, metadata: dict[str, Any]) -> None:
        """Raises TransferError unless the store was made from this very source."""
        if metadata["fingerprint"].get("images") == self.source.fingerprint:
            return
        folder = epath.Path(path).parent  # an image may have come to the other split
        stores = {str(folder / split): source for split, source in self._sources.items()} | {path: self.source}
        changes = store_images.changes({at: source for at, source in stores.items() if read_metadata(at) is not None})
        raise TransferError(
            f"the feature store {path} was made from other images ({metadata['data']}) than those of "
            f"{self.source.name}: {changes or 'the config is another, or the images have changed'}"
        )

    def complete(self, path: str, metadata: dict[str, Any]) -> FeatureStore:
        """Extracts the rows that the store at `path` lacks, in its own batches."""
        from transfer.runtime.devices import use_cores

        cache.keep_compiled()
        use_cores()
        from transfer.experiment.backbone import build_extractor
        from transfer.extract.to_store import extract_to_store

        with self.config.unlocked():
            self.config.batch_size = metadata["batch_size"]
        on_error = "skip" if metadata["skipped_rows"] else self.config.on_error
        how = on_error, f"repair {self.split}", metadata["features_dtype"]
        return extract_to_store(build_extractor(self.config), self.source, path, *how)


def of_workdir(workdir: Any, split: str) -> Origin | None:
    """The origin by the `config.json` of a run's workdir; None where there is none, TransferError if it is damaged."""
    folder = paths.open_path(workdir)
    return Origin(read_config(folder), split, str(workdir)) if (folder / FILE).exists() else None


def of_config(file: str, split: str) -> Origin:
    """The origin by a config file, without settings of a command line; UsageError where it is missing or wrong."""
    return Origin(config_file.load(file), split)
