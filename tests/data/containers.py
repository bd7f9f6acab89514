"""Small sets in every container, for the tests of datasets and tools."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

GROUNDING = {
    "caption": "a dog and a cat",
    "regions": [
        {"bbox": [0, 0, 10, 10], "phrase": "a dog", "tokens_positive": [[2, 5]], "score": 0.9},
        {"bbox": [[10, 0, 21, 10], [12, 0, 21, 9]], "phrase": "cat", "score": [0.8, 0.3]},
    ],
}
DETECTION = {
    "instances": [
        {"bbox": [1, 2, 11, 13], "label": 0, "category": "dog"},
        {"bbox": [5, 5, 25, 19], "label": 1, "category": "cat"},
    ]
}


def picture_bytes(width: int = 30, height: int = 20, seed: int = 0, kind: str = "JPEG") -> bytes:
    """An encoded smooth picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(stream, kind, quality=95)
    return stream.getvalue()


def write_json_lines(folder: Path, lines: list, size: tuple[int, int] = (30, 20)) -> Path:
    """Pictures `p0.jpg`, ... in `folder/images` and one line each; a text is written as it is."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    texts = []
    for number, line in enumerate(lines):
        (folder / "images" / f"p{number}.jpg").write_bytes(picture_bytes(*size, seed=number))
        if isinstance(line, dict):
            head = {"filename": f"p{number}.jpg", "height": size[1], "width": size[0]}
            line = json.dumps({**head, **line})
        texts.append(f"{line}\n")
    path = folder / "data.jsonl"
    path.write_text("".join(texts))
    return path


def write_tar(path: Path, members: list[tuple[str, bytes | dict | str]]) -> Path:
    """A tar file of named members; mappings become JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if isinstance(content, dict | list):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, records: list, per_shard: int = 2) -> list[Path]:
    """Shards `s-000.tar`, ... of pictures (30 x 20) with these records."""
    shards = []
    for begin in range(0, len(records), per_shard):
        members: list[tuple[str, bytes | dict | str]] = []
        for number, record in enumerate(records[begin : begin + per_shard], start=begin):
            members += [(f"{number:06d}.jpg", picture_bytes(seed=number))]
            members += [(f"{number:06d}.json", record)]
        shards.append(write_tar(folder / f"s-{len(shards):03d}.tar", members))
    return shards
