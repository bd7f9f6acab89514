"""Cleaning of class names before they become caption text."""

import re

_BRACKETED = re.compile(r"\(.*\)", flags=re.DOTALL)


def clean_name(name: str) -> str:
    """Class name as it is written into a caption.

    Everything from the first "(" to the last ")" goes, "_" becomes a blank, and each pair of blanks
    becomes one (a single pass, so three blanks leave two). Nothing is trimmed and nothing is
    lower-cased: checkpoints were trained on captions with these exact blanks.
    """
    return _BRACKETED.sub("", name).replace("_", " ").replace("  ", " ")
