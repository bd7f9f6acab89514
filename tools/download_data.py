"""Download data by name: annotations, ODinW sets, COCO and GQA pictures.

Examples:
    python tools/download_data.py --list
    python tools/download_data.py goldg lvis
    python tools/download_data.py odinw/Aquarium odinw/Raccoon --root DATASET

Downloads that broke off are continued by the same command. GLIP_MIRROR (or --mirror) names a mirror
of the Hugging Face hub.
"""

import sys

from maskrcnn_benchmark.utils.download_catalog import BY_HAND, DATA, DATA_GROUPS
from maskrcnn_benchmark.utils.download_command import run_download_tool


def main(arguments: list[str] | None = None) -> int:
    return run_download_tool(__doc__, DATA, DATA_GROUPS, "DATASET", arguments, BY_HAND)


if __name__ == "__main__":
    sys.exit(main())
