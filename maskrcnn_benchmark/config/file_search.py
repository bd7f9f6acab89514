"""Where files are looked for: the working folder, the data root and a few usual folders."""

import os
from collections.abc import Sequence
from pathlib import Path

_FOLDERS = ("DATASET", "OUTPUT", "data", "MODEL")
_NOT_FILES = ("catalog://", "http://", "https://")


def search_roots() -> list[Path]:
    """Folders that are searched, in order: ./, $DATASET if set, DATASET, OUTPUT, data, MODEL."""
    data_root = os.environ.get("DATASET", "")
    return [Path(), *([Path(data_root)] if data_root else []), *map(Path, _FOLDERS)]


def try_to_find(name: str | Sequence[str], return_dir: bool = False) -> str:
    """Path of a file or folder: `name` joined to the first search root that has it.

    Args:
        name: a path, or several of which the first that exists anywhere is taken. Empty names,
            `catalog://...` and `http(s)://...` are returned as they are, absolute paths are only
            checked.
        return_dir: return the root instead, "" for the working folder.

    Raises:
        FileNotFoundError: no root has it; the message lists the places searched.
    """
    names = [name] if isinstance(name, str) else list(name)
    for candidate in names:
        if not candidate or candidate.startswith(_NOT_FILES):
            return candidate
        for root in search_roots():
            path = root / candidate
            if path.exists():
                return _as_text(root) if return_dir else str(path)
    searched = ", ".join(_as_text(root) or "./" for root in search_roots())
    raise FileNotFoundError(
        f"{' or '.join(names)} not found; searched in {searched} (working folder {Path.cwd()}). "
        "Set the environment variable DATASET to the folder that holds the data."
    )


def _as_text(root: Path) -> str:
    return "" if root == Path() else str(root)
