"""TSV sets: images, labels, sizes, their line indices, and the YAML file that ties them."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_benchmark.data.writers.output_file import OutputFile, write_bytes, write_json
from maskrcnn_benchmark.data.writers.sample import Sample, SampleWriter


class TSVWriter(SampleWriter):
    """Writes `<name>.yaml` and, beside it, `<name>.images.tsv`, `.label.tsv`, `.hw.tsv`.

    Args:
        folder: where to.
        label_map: content of `<name>.labelmap.json`, for detection data.
        shared_pictures: samples that name the same picture file (several captions of one picture)
            share one row of images; labels then name their picture (`imageid2idx`).
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        label_map: Mapping[str, Any] | None = None,
        shared_pictures: bool = False,
    ):
        super().__init__()
        self.folder, self.name = Path(folder), name
        self.label_map = label_map
        self._images = self._tsv("images")
        self._labels = self._tsv("label")
        self._sizes = None if shared_pictures else self._tsv("hw")
        self._row_of_picture: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        height, width = sample.size
        record = dict(sample.record)
        if self._sizes is None:
            # Readers take sizes and pictures from the record.
            record = {"img_h": height, "img_w": width, **record, "img_id": sample.file_name}
            key = sample.file_name
            if key not in self._row_of_picture:
                self._row_of_picture[key] = len(self._row_of_picture)
                self._images.add(key, base64.b64encode(sample.load_image()))
        else:
            self._images.add(sample.key, base64.b64encode(sample.load_image()))
            self._sizes.add(sample.key, _json([{"height": height, "width": width}]))
        self._labels.add(sample.key, _json(record))

    def close(self) -> None:
        settings = {"img": self._images.path.name, "label": self._labels.path.name}
        if self._sizes is None:
            ids = self.folder / f"{self.name}.imageid2idx.json"
            self.written.append(write_json(ids, self._row_of_picture))
            settings["imageid2idx"] = ids.name
        else:
            settings["hw"] = self._sizes.path.name
        if self.label_map is not None:
            labels = self.folder / f"{self.name}.labelmap.json"
            self.written.append(write_json(labels, self.label_map))
            settings["labelmap"] = labels.name
        for tsv in (self._images, self._labels, self._sizes):
            if tsv is not None:
                self.written += [self._finish(file) for file in (tsv.rows, tsv.index)]
        text = yaml.safe_dump(settings, sort_keys=False)
        self.written.insert(0, write_bytes(self.folder / f"{self.name}.yaml", text.encode()))

    def _tsv(self, kind: str) -> "_TSV":
        path = self.folder / f"{self.name}.{kind}.tsv"
        return _TSV(self._output(path), self._output(path.with_suffix(".lineidx")))


class _TSV:
    """Rows and their line index, growing together."""

    def __init__(self, rows: OutputFile, index: OutputFile):
        self.rows, self.index = rows, index
        self.path = rows.path

    def add(self, key: str, value: bytes) -> None:
        name = key.replace("\t", " ").replace("\n", " ").encode()
        begin = self.rows.write(name + b"\t" + value + b"\n")
        self.index.write(b"%d\n" % begin)


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
