"""The data path: opening sets of millions of records, and pictures from bytes to input.

    python -m benchmarks.data                       # 2 million records; needs 2 GB of disk, minutes
    python -m benchmarks.data --records 100000      # seconds
    python -m benchmarks.data --only pictures
    python -m benchmarks.data --only pseudo-labels --batch 16   # by the bundled weights

Opening: every set is generated and opened once (which builds its indices), then opened by fresh
processes that then read 100 records; seconds, and megabytes over what the process had before, are
those of the worst. Opening includes the sizes of all pictures, which grouping by aspect needs. The
plain way holds indices and sizes as Python objects. Memory counts mapped pages of index files,
although workers share them.

Pictures: decoded, resized to a shorter side of 800 and normalised, one thread; rounds alternate
between PIL and torchvision, the figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.tar_index import HEADER_BYTES, SamplePlace, write_index
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.data.datasets.webdataset_shards import ShardSource
from maskrcnn_benchmark.data.fast_pictures import read_pixels
from maskrcnn_benchmark.data.image_files import read_rgb
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.grounding import RandomSource

TEACHER = ("configs/shapes/glip_C.yaml", "MODEL/shapes/glip_shapes_C.safetensors")
PER_SHARD = 10_000
READ_RECORDS = 100
CAPTION = "a brown dog on green grass beside a red ball"
KINDS = ("tsv", "json-lines", "shards", "tsv, plain")


def generate(kind: str, folder: Path, records: int) -> None:
    """Write a set of captions with boxes; pictures are place holders that nobody decodes."""
    sizes = np.random.default_rng(0).integers(200, 1000, (records, 2)).tolist()
    if kind == "tsv":
        _generate_tsv(folder, sizes)
    elif kind == "json-lines":
        _generate_json_lines(folder, sizes)
    else:
        _generate_shards(folder, sizes)


def _record(size: list[int]) -> dict[str, Any]:
    return {
        "img_h": size[0],
        "img_w": size[1],
        "caption": CAPTION,
        "bboxes": [[10, 10, 90, 120], [100, 50, 180, 150]],
        "scores": [0.91, 0.84],
        "tokens_positive": [[[0, 11]], [[34, 44]]],
    }


def _generate_tsv(folder: Path, sizes: list[list[int]]) -> None:
    names = {"img": "images.tsv", "label": "web.label.tsv", "hw": "web.hw.tsv"}
    paths = {key: folder / name for key, name in names.items()}
    with (
        paths["img"].open("w") as images,
        paths["label"].open("w") as labels,
        paths["hw"].open("w") as hw,
    ):
        for number, size in enumerate(sizes):
            images.write(f"{number}\tAAAA\n")
            labels.write(f"{number}\t{json.dumps(_record(size))}\n")
            hw.write(f'{number}\t[{{"height": {size[0]}, "width": {size[1]}}}]\n')
    (folder / "web.yaml").write_text(json.dumps(names))


def _generate_json_lines(folder: Path, sizes: list[list[int]]) -> None:
    with (folder / "web.jsonl").open("w") as lines:
        for number, size in enumerate(sizes):
            regions = [
                {"bbox": [10, 10, 91, 121], "tokens_positive": [[0, 11]], "score": 0.91},
                {"bbox": [100, 50, 181, 151], "tokens_positive": [[34, 44]], "score": 0.84},
            ]
            grounding = {"caption": CAPTION, "regions": regions}
            line = {"filename": f"{number}.jpg", "height": size[0], "width": size[1]}
            lines.write(json.dumps({**line, "grounding": grounding}) + "\n")


def _generate_shards(folder: Path, sizes: list[list[int]]) -> None:
    """Tar files of one sample each, which their index names as often as a real one has samples."""
    for number, begin in enumerate(range(0, len(sizes), PER_SHARD)):
        chosen = sizes[begin : begin + PER_SHARD]
        record = json.dumps(_record(chosen[0])).encode()
        picture_at, record_at = HEADER_BYTES, 3 * HEADER_BYTES
        content = bytearray(5 * HEADER_BYTES)
        content[record_at : record_at + len(record)] = record
        shard = folder / f"web-{number:06d}.tar"
        shard.write_bytes(content)
        places = [
            SamplePlace(picture_at, 4, record_at, len(record), height=height, width=width)
            for height, width in chosen
        ]
        write_index(shard, places)


def open_source(kind: str, folder: Path) -> RecordSource:
    """Open a generated set as the datasets do."""
    if kind == "tsv":
        return TSVSource(folder / "web.yaml")
    if kind == "json-lines":
        return JsonLinesSource(folder / "web.jsonl", folder)
    return ShardSource(sorted(folder.glob("*.tar")))


def open_plainly(folder: Path) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """TSV files the usual way: offsets as lists of Python integers, sizes read row by row."""
    offsets = []
    for name in ("images", "web.label", "web.hw"):
        with (folder / f"{name}.lineidx").open() as file:
            offsets.append([int(line.strip()) for line in file])
    sizes = []
    with (folder / "web.hw.tsv").open() as file:
        for offset in offsets[2]:
            file.seek(offset)
            (entry,) = json.loads(file.readline().split("\t")[1])
            sizes.append((entry["height"], entry["width"]))
    return offsets, sizes


def measure_opening(kind: str, folder: Path) -> dict[str, float]:
    """Open a set in this process; seconds and megabytes."""
    before, start = _status("VmRSS"), time.perf_counter()
    if kind == "tsv, plain":
        kept: Any = open_plainly(folder)
        opened = time.perf_counter() - start
    else:
        source = open_source(kind, folder)
        kept = source.sizes()
        opened = time.perf_counter() - start
        for index in np.linspace(0, len(source) - 1, READ_RECORDS).astype(int).tolist():
            source.record(index)
    resting, peak = _status("VmRSS") - before, _status("VmHWM") - before
    del kept
    return {"seconds": opened, "resting": resting, "peak": peak}


def _status(key: str) -> float:
    """Megabytes of memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the system does not tell {key}")


def compare_opening(records: int, rounds: int, scratch: Path | None) -> list[dict[str, Any]]:
    """Generate each set, open it in fresh processes; one row per kind."""
    rows = []
    for kind in KINDS:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            container = "tsv" if kind == "tsv, plain" else kind
            print(f"generating {records} records ({container})", file=sys.stderr)
            generate(container, folder, records)
            start = time.perf_counter()
            open_source(container, folder).sizes()
            first = time.perf_counter() - start
            results = [_in_fresh_process(kind, folder) for _ in range(rounds)]
        finally:
            shutil.rmtree(folder)
        worst = {key: max(result[key] for result in results) for key in results[0]}
        rows.append({"kind": kind, "records": records, "first": first, **worst})
    return rows


def _in_fresh_process(kind: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "--open", kind, str(folder)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def picture_of(width: int, height: int) -> bytes:
    """A JPEG with the detail of a photograph."""
    rng = np.random.default_rng(0)
    canvas = np.zeros((height, width, 3))
    for side, weight in ((6, 90), (40, 50), (200, 25), (max(width, height), 6)):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        layer = noise.resize((width, height), Image.Resampling.BICUBIC)
        canvas += weight / 171 * np.asarray(layer, dtype=float)
    stream = io.BytesIO()
    Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def compare_pictures(rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Pictures per second from bytes to normalised input, PIL against torchvision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_compare_picture(size, rounds, repeats) for size in ((640, 480), (2000, 1333))]
    finally:
        torch.set_num_threads(threads)


def _compare_picture(size: tuple[int, int], rounds: int, repeats: int) -> dict[str, Any]:
    config = default_config.clone()
    ways: dict[str, Callable[[bytes], torch.Tensor]] = {}
    for backend, reader in (("pil", read_rgb), ("torchvision", read_pixels)):
        config.INPUT.IMAGE_BACKEND = backend
        transforms = build_transforms(config, is_train=False)
        ways[backend] = lambda data, reader=reader, transforms=transforms: transforms(
            reader(io.BytesIO(data), "it"), None, RandomSource(0)
        )[0]
    data = picture_of(*size)
    difference = (ways["pil"](data) - ways["torchvision"](data)).abs()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            for _ in range(repeats):
                way(data)
            seconds[name].append((time.process_time() - start) / repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "size": f"{size[0]} x {size[1]}",
        **{name: 1 / median for name, median in medians.items()},
        "ratio": medians["pil"] / medians["torchvision"],
        "differ": difference.gt(0.5).float().mean().item(),
        "by": difference.max().item(),
    }


def measure_labelling(config_file: str, weight: str, pictures: int, batch: int) -> dict[str, float]:
    """Pairs that a teacher labels per second and per second of processor time, loading included."""
    from maskrcnn_benchmark.data.conversion.coco_source import FolderSource
    from maskrcnn_benchmark.engine.evaluate_tasks import choose_weights, load_model
    from maskrcnn_benchmark.engine.pseudo_labels import LabelRules, PseudoLabeller

    config = default_config.clone()
    config.merge_from_file(config_file)
    config.DATALOADER.NUM_WORKERS = 0
    with tempfile.TemporaryDirectory() as name:
        data = picture_of(256, 192)
        for number in range(pictures):
            Path(name, f"{number:04d}.jpg").write_bytes(data)
            Path(name, f"{number:04d}.txt").write_text(CAPTION)
        weights = choose_weights(config, weight, [])
        model = load_model(config, weights, use_ema=False, partial=False, trust=False)
        labeller = PseudoLabeller(
            config, model, FolderSource(name), LabelRules(0.5, -1.0, 1), batch
        )
        list(labeller.label(range(batch)))
        start, busy = time.perf_counter(), time.process_time()
        list(labeller.label(range(pictures)))
        return {
            "per_second": pictures / (time.perf_counter() - start),
            "per_cpu_second": pictures / (time.process_time() - busy),
        }


def print_opening(rows: list[dict[str, Any]]) -> None:
    print("| set | records | first opening, s | opening, s | memory at rest, MB | at most, MB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['kind']} | {row['records']:,} | {row['first']:.1f} | {row['seconds']:.2f} "
            f"| {row['resting']:.0f} | {row['peak']:.0f} |"
        )


def print_pictures(rows: list[dict[str, Any]]) -> None:
    print("| picture | PIL, per s | torchvision, per s | ratio | values that differ | by at most |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['size']} | {row['pil']:.0f} | {row['torchvision']:.0f} | {row['ratio']:.1f}x "
            f"| {row['differ']:.2%} | {row['by']:.0f} |"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("opening", "pictures", "pseudo-labels"))
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="folder for the generated sets")
    parser.add_argument("--config-file", default=TEACHER[0], help="teacher")
    parser.add_argument("--weight", default=TEACHER[1], help="the teacher's checkpoint")
    parser.add_argument("--batch", type=int, default=4, help="pictures per batch of the teacher")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--open", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.open:
        print(json.dumps(measure_opening(args.open[0], Path(args.open[1]))))
        return 0
    print(f"{os.cpu_count()} cores, torch {torch.__version__}")
    figures: dict[str, Any] = {}
    if args.only in (None, "opening"):
        figures["opening"] = compare_opening(args.records, min(args.rounds, 3), args.scratch)
        print_opening(figures["opening"])
    if args.only in (None, "pictures"):
        figures["pictures"] = compare_pictures(args.rounds, repeats=10)
        print_pictures(figures["pictures"])
    if args.only in (None, "pseudo-labels"):
        speed = measure_labelling(args.config_file, args.weight, 32, args.batch)
        figures["pseudo_labels"] = speed
        print(
            f"pseudo labels ({args.config_file}): {speed['per_second']:.1f} pairs per second, "
            f"{speed['per_cpu_second']:.1f} per second of processor time"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"wrote {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
