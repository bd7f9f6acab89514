"""Fetch weights from the web once, for all processes of a machine."""

import logging
import os
import re
from pathlib import Path
from urllib.parse import urlparse

from . import comm
from .checkpoint_files import CheckpointError
from .download import DownloadError, fetch

logger = logging.getLogger(__name__)

DOWNLOAD_FOLDER = Path("model")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{6,})\.")


def is_url(name: str) -> bool:
    """True for ``http://`` and ``https://`` addresses."""
    return name.startswith(("http://", "https://"))


def cache_url(url: str, folder: str | os.PathLike = DOWNLOAD_FOLDER) -> Path:
    """Path of the downloaded file; fetched by one process per machine, the others wait.

    A file that is already there is used as it is. A name that carries a hash of six or more
    hexadecimal digits (``resnet50-19c8e357.pth``) is checked against it.

    Raises:
        CheckpointError: on every process, when the download failed or the hash differs.
    """
    path = Path(folder) / _file_name(url)
    problem = None
    if comm.read_launch_settings().local_rank == 0 and not path.is_file():
        try:
            _download(url, path)
        except CheckpointError as error:
            problem = str(error)
    problems = [text for text in comm.all_gather(problem) if text]
    if problems:
        raise CheckpointError(problems[0])
    return path


def _file_name(url: str) -> str:
    parsed = urlparse(url)
    name = Path(parsed.path).name
    # Detectron calls every model model_final.pkl; only the whole path tells them apart.
    return parsed.path.strip("/").replace("/", "_") if name == "model_final.pkl" else name


def _download(url: str, path: Path) -> None:
    logger.info("downloading %s to %s", url, path)
    try:
        fetched = fetch(url, path)
    except DownloadError as error:
        raise CheckpointError(str(error)) from error
    promised = _HASH_IN_NAME.search(path.name)
    if promised and not fetched.sha256.startswith(promised[1]):
        path.unlink()
        raise CheckpointError(
            f"{url} arrived with SHA-256 {fetched.sha256[:16]}..., its name promises {promised[1]}"
        )
