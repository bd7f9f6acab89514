"""Datasets joined and repeated."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.sample_key import SampleKey, move_key, read_key


class CopiedDataset(Dataset):
    """A dataset repeated `copies` times within a pass; the index in a sample stays that of the
    original.
    """

    def __init__(self, dataset: ImageDataset, copies: int):
        if copies < 1:
            raise ValueError(f"a dataset can be repeated once or more often, not {copies} times")
        self.dataset = dataset
        self.copies = copies
        self.name = dataset.name

    def __len__(self) -> int:
        return self.copies * len(self.dataset)

    def __getitem__(self, key: int | SampleKey) -> tuple:
        return self.dataset[move_key(key, read_key(key).index % len(self.dataset))]

    def __getattr__(self, name: str):
        # Evaluators ask the dataset for its classes and ids; copies change neither.
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths."""
        return np.tile(self.dataset.sizes(), (self.copies, 1))

    def pictures(self) -> np.ndarray | None:
        """(num_samples,) number of the picture that each sample shows; None: all differ."""
        pictures = self.dataset.pictures()
        return None if pictures is None else np.tile(pictures, self.copies)

    def get_img_info(self, index: int) -> dict:
        """{"height", "width"} of the picture."""
        return self.dataset.get_img_info(index % len(self.dataset))

    def image_id(self, index: int) -> int:
        """Id of the picture; copies of a sample share it, so that results count once."""
        return self.dataset.image_id(index % len(self.dataset))


def single_dataset(dataset: Dataset) -> ImageDataset | None:
    """The dataset that all samples come from, copied or not; None if they come from several."""
    if isinstance(dataset, CopiedDataset):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, ImageDataset) else None


class ConcatDataset(Dataset):
    """Several datasets one after another; samples carry their index within their own dataset."""

    def __init__(self, datasets: Sequence[ImageDataset | CopiedDataset]):
        if not datasets:
            raise ValueError("no dataset to join")
        self.datasets = list(datasets)
        self.name = "+".join(dataset.name for dataset in self.datasets)
        self.cumulative_sizes = np.cumsum([len(dataset) for dataset in self.datasets])

    def __len__(self) -> int:
        return int(self.cumulative_sizes[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(number of the dataset, index within it)."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self.cumulative_sizes, index, side="right"))
        before = int(self.cumulative_sizes[number - 1]) if number else 0
        return number, index - before

    def __getitem__(self, key: int | SampleKey) -> tuple:
        number, index = self.locate(read_key(key).index)
        return self.datasets[number][move_key(key, index)]

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths."""
        return np.concatenate([dataset.sizes() for dataset in self.datasets])

    def get_img_info(self, index: int) -> dict:
        """{"height", "width"} of the picture."""
        number, local = self.locate(index)
        return self.datasets[number].get_img_info(local)
