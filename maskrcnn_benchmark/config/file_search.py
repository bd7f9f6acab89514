"""Where files are looked for: the working folder, the data root and a few usual folders."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_FOLDERS = ("DATASET", "OUTPUT", "data", "MODEL")
_BRACES = re.compile(r"\{([^{}]+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
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


def find_files(pattern: str | Sequence[str]) -> list[str]:
    """Paths of a set of files, in order, all of them below the first search root that has any.

    Args:
        pattern: one or several of: a path, a path with ranges or alternatives in braces
            (`cc3m/{00000..00331}.tar`), a glob (`cc3m/*.tar`), a folder (its `.tar` files).

    Raises:
        FileNotFoundError: nothing fits, or a file that braces name is missing.
    """
    if not isinstance(pattern, str):
        return [path for one in pattern for path in find_files(one)]
    names = expand_braces(pattern)
    for root in search_roots():
        found = [path for name in names for path in _matches(root, name)]
        if found:
            missing = [name for name in names if not _matches(root, name)]
            if missing:
                raise FileNotFoundError(
                    f"{pattern}: {len(missing)} of {len(names)} files are missing below "
                    f"{root} (first: {missing[0]})"
                )
            return [str(path) for path in found]
    searched = ", ".join(_as_text(root) or "./" for root in search_roots())
    raise FileNotFoundError(
        f"{pattern} names no file; searched in {searched} (working folder {Path.cwd()}). "
        "Set the environment variable DATASET to the folder that holds the data."
    )


def expand_braces(pattern: str) -> list[str]:
    """Every text that a pattern with `{000..012}` or `{a,b}` stands for, in order."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    span = _RANGE.fullmatch(braces.group(1))
    if span:
        first, last = span.groups()
        choices = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        choices = braces.group(1).split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    rests = expand_braces(after)
    return [f"{before}{choice}{rest}" for choice in choices for rest in rests]


def _matches(root: Path, name: str) -> list[Path]:
    path = root / name
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.is_file():
        return [path]
    if any(character in name for character in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        return sorted(anchor.glob(str(path.relative_to(anchor))))
    return []


def _as_text(root: Path) -> str:
    return "" if root == Path() else str(root)
