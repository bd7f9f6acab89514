"""`download.py` under the name that GLIP's README uses."""

import importlib.util
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    spec = importlib.util.spec_from_file_location(
        "odinw_download", Path(__file__).with_name("download.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
