"""Download ODinW sets.

    python odinw/download.py --dataset_names Aquarium,Raccoon --dataset_path DATASET/odinw

The exit status is 1 if a set failed or is unknown. `tools/download_data.py odinw` does the same.
"""

import argparse
import sys
from pathlib import Path

from maskrcnn_benchmark.utils.download import DownloadError
from maskrcnn_benchmark.utils.download_catalog import ODINW, odinw_archive
from maskrcnn_benchmark.utils.download_command import download_all, resolve_names


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_names", default="all", help="'all', or names joined by commas")
    parser.add_argument("--dataset_path", type=Path, default=Path("DATASET/odinw"))
    args = parser.parse_args(arguments)
    known = {name: (odinw_archive(name, folder="."),) for name in ODINW}
    names = [name.strip() for name in args.dataset_names.split(",") if name.strip()]
    chosen, unknown = [], 0
    for name in names:
        try:
            chosen += resolve_names([name], known, {"all": ODINW})
        except DownloadError as error:
            unknown += 1
            print(f"error: dataset not found: {error}", file=sys.stderr)
    files = [known[name][0] for name in chosen]
    return 1 if download_all(files, args.dataset_path) or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
