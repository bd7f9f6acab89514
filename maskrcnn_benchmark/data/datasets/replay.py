"""A share of other data within a training set, so that a model goes on seeing what it knows."""

import numpy as np
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.sample_key import SampleKey, read_key
from maskrcnn_benchmark.errors import ConfigError


class ReplayDataset(Dataset):
    """As many samples as asked for, drawn afresh from a dataset in every pass.

    Which sample stands at an index follows from the seed of its key, so a resumed run draws the
    same ones.

    Args:
        source: where samples are drawn from; usually much larger than ``length``.
        length: samples per pass.
    """

    def __init__(self, source: Dataset, length: int):
        if length < 1:
            raise ValueError(f"at least one sample must be replayed, not {length}")
        self.source = source
        self.length = length
        self.name = f"replay of {source.name}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | SampleKey) -> tuple:
        seed = read_key(key).seed
        return self.source[SampleKey(seed % len(self.source), seed)]

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths; unknown before a sample is drawn, so all alike."""
        return np.ones((self.length, 2), dtype=np.int32)

    def get_img_info(self, index: int) -> dict:
        """{"height", "width"}, see `sizes`."""
        return {"height": 1, "width": 1}


def replay_length(num_samples: int, share: float) -> int:
    """Samples to add to ``num_samples`` so that they make up ``share`` of all; at least one.

    Raises:
        ConfigError: the share does not lie between 0 and 1.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(
            f"DATASETS.REPLAY_SHARE is {share}; it must lie between 0 and 1, both excluded"
        )
    return max(1, round(num_samples * share / (1.0 - share)))
