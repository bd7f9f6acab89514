"""Detection data in TSV files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.datasets.detection_records import (
    CaptionedDetectionRecords,
    DetectionRecords,
)
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource


class ODTSVDataset(DetectionRecords):
    """Pictures with labelled boxes in TSV files; no caption.

    Args:
        name: what messages call the dataset.
        yaml_file: see `TSVSource`.
    """

    def __init__(
        self,
        name: str,
        yaml_file: str | Path,
        transforms: Callable | None,
        *,
        skip_broken: bool = False,
    ):
        source = _source(yaml_file)
        super().__init__(name, source, source.label_map(), transforms, skip_broken=skip_broken)


class CocoDetectionTSV(CaptionedDetectionRecords):
    """Detection data in TSV files, served as grounding data with captions of sampled classes.

    Args:
        name, yaml_file: see `ODTSVDataset`.
        options: see `CaptionedDetectionRecords`.
    """

    def __init__(
        self, name: str, yaml_file: str | Path, transforms: Callable | None, **options: Any
    ):
        source = _source(yaml_file)
        super().__init__(name, source, source.label_map(), transforms, **options)


def _source(yaml_file: str | Path) -> TSVSource:
    source = TSVSource(yaml_file)
    source.need_labels()
    return source
