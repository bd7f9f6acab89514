"""Fixtures of the data tests: a tokenizer, and a small COCO-style set of generated pictures."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer


@dataclass
class CocoFolder:
    """A folder of pictures and its annotation file; `content` is what the file says."""

    images: Path
    annotations: Path
    content: dict

    def save(self) -> None:
        self.annotations.write_text(json.dumps(self.content))


@pytest.fixture(scope="session")
def bert_tokenizer(bert_vocab_dir):
    return AutoTokenizer.from_pretrained(bert_vocab_dir)


def write_picture(path: Path, width: int, height: int, seed: int = 0) -> None:
    """A smooth random picture, so that resizing it is well conditioned."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)


def make_coco_folder(folder: Path, num_images: int = 6) -> CocoFolder:
    """Pictures of alternating aspect, ids 10, 20, ...; classes dog (1), cat (2), hot_dog (4)."""
    images_folder = folder / "images"
    images_folder.mkdir(parents=True)
    category_ids = (1, 2, 4)
    images, annotations = [], []
    for i in range(num_images):
        width, height = ((60, 40), (40, 60))[i % 2]
        name = f"picture{i}.png"
        write_picture(images_folder / name, width, height, seed=i)
        image_id = 10 * (i + 1)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for k in range(1 + i % 2):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[(i + k) % 3],
                    "bbox": [2 + i, 3, 20, 10 + k],
                    "area": 20 * (10 + k),
                    "iscrowd": 0,
                }
            )
    names = {1: "dog", 2: "cat", 4: "hot_dog"}
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }
    result = CocoFolder(images_folder, folder / "annotations.json", content)
    result.save()
    return result


@pytest.fixture
def coco_folder(tmp_path) -> CocoFolder:
    return make_coco_folder(tmp_path / "coco")


@pytest.fixture
def make_read_only(monkeypatch):
    """From its call on no file can be opened for writing."""
    opened = Path.open

    def refuse_writing(path, mode="r", *args, **kwargs):
        if "w" in mode:
            raise PermissionError("read-only")
        return opened(path, mode, *args, **kwargs)

    return lambda: monkeypatch.setattr(Path, "open", refuse_writing)
