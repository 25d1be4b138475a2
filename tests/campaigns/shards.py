"""The config of the campaigns for a store that is large enough to have shards: a few, of many chunks each.

python extract.py --config=tests/campaigns/shards.py --workdir=DIR
"""

from ml_collections import ConfigDict

from tests.campaigns import small
from transfer.store import sizes, writer


def get_config() -> ConfigDict:
    """A store of some hundred rows has shards, and is saved as far as it is again and again."""
    sizes.MOST_BATCHES, sizes.SHARDS, sizes.CHUNK_ROWS = 4, 5, 16
    writer.SECONDS_AT_RISK = 0.03
    return small.get_config()
