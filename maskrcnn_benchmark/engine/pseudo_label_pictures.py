"""Pictures that show what was labelled, to be looked at before anything is trained on it."""

import io
from pathlib import Path

from PIL import Image

from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.utils.visualisation import draw_detections, enlarge_small, label_colour

from .pseudo_labels import Label


class LabelPictures:
    """Draws the first labelled samples.

    Args:
        source: the pairs.
        folder: where to.
        most: number of pictures.
    """

    def __init__(self, source: RecordSource, folder: Path, most: int):
        self.source = source
        self.folder = folder
        self.most = most
        self.written: list[Path] = []

    def offer(self, label: Label) -> None:
        """Draw a label if it has boxes and there is room."""
        if label.record is None or len(self.written) >= self.most:
            return
        record = label.record
        boxes, texts, colours = [], [], []
        entities = zip(record["bboxes"], record["scores"], record["tokens_positive"])
        for number, (own, scores, ((begin, end),)) in enumerate(entities, start=1):
            boxes += own
            texts += [f"{record['caption'][begin:end]} {score:.2f}" for score in scores]
            colours += [label_colour(number)] * len(own)
        with Image.open(io.BytesIO(self.source.image_data(label.index))) as image:
            canvas, boxes = enlarge_small(image.convert("RGB"), boxes)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{label.index:08d}.png"
        draw_detections(canvas, boxes, texts, colours).save(path)
        self.written.append(path)
