"""Download weights by name: GLIP, DesCo, Swin backbones, text encoders.

Examples:
    python tools/download_weights.py --list
    python tools/download_weights.py glip_tiny_model_o365_goldg_cc_sbu bert-base-uncased

Downloads that broke off are continued by the same command. GLIP_MIRROR (or --mirror) names a mirror
of the Hugging Face hub. A text encoder in MODEL/bert-base-uncased is used by setting
MODEL.LANGUAGE_BACKBONE.MODEL_TYPE and TOKENIZER_TYPE to that folder.
"""

import sys

from maskrcnn_benchmark.utils.download_catalog import WEIGHT_GROUPS, WEIGHTS
from maskrcnn_benchmark.utils.download_command import run_download_tool


def main(arguments: list[str] | None = None) -> int:
    return run_download_tool(__doc__, WEIGHTS, WEIGHT_GROUPS, "MODEL", arguments)


if __name__ == "__main__":
    sys.exit(main())
