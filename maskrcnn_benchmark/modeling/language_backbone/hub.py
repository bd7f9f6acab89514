"""Files that transformers loads by name or from a folder, with or without a network."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from maskrcnn_benchmark.errors import UserError

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
SOURCE_TREE = Path(__file__).resolve().parents[3]
"""The checkout that the package runs from, unless it is installed without ``-e``."""


class PretrainedFilesMissing(UserError, OSError):
    """Neither the cache nor the hub gave the files of a model or tokenizer."""


def load_pretrained(name: str, what: str, load: Callable[..., Loaded], advice: str) -> Loaded:
    """Load ``name`` from a folder, else from the local cache, else from the hub.

    The cache comes first, so that what was downloaded once needs no network; the hub is asked
    only if it answers at all, because its client retries for most of a minute.

    Args:
        name: a folder, or a name on the hub such as "bert-base-uncased".
        what: noun for messages ("the tokenizer", "the weights").
        load: called as ``load(name, local_files_only=...)``.
        advice: what the reader of the error can do, a whole sentence.

    Raises:
        FileNotFoundError: if ``name`` is written as a path and no such folder exists.
        PretrainedFilesMissing: if the files are nowhere to be had.
    """
    folder = find_folder(name)
    if folder.is_dir():
        return load(str(folder), local_files_only=True)
    if looks_like_path(name):
        raise FileNotFoundError(f"{what}: no folder {folder}. {advice}")
    try:
        return load(name, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = f"not in the local cache ({_first_line(error)})"
    if hub_is_reachable():
        try:
            logger.info("downloading %s of %s", what, name)
            return load(name, local_files_only=False)
        except (OSError, ValueError) as error:
            reason = f"not available from the hub ({_first_line(error)})"
    else:
        reason += "; the hub is out of reach"
    raise PretrainedFilesMissing(f"{what} of {name!r}: {reason}. {advice}")


def find_folder(name: str) -> Path:
    """The folder that ``name`` stands for, if it stands for one; callers ask whether it exists.

    Configurations of the checkout name folders of the checkout (``configs/shapes/text_encoder``),
    which are found from any working folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or "/" not in name:
        return folder
    shipped = SOURCE_TREE / folder
    return shipped if shipped.is_dir() else folder


def looks_like_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path: hub names are "name" or "owner/name"."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name


@lru_cache(maxsize=1)
def hub_is_reachable(timeout: float = 5.0) -> bool:
    """Whether the hub answers within ``timeout`` seconds; asked once per process."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        logger.info("no connection to the model hub: %s", error)
        return False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
