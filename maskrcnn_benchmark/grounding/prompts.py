"""Joining class names into one caption, with the character span of every name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding.names import clean_name

DETECTION_PREFIX = "object detection : "


class NamePrompt(NamedTuple):
    """How one class is worded: only `name` is the positive span, the rest is context."""

    prefix: str
    name: str
    suffix: str


class Wording(NamedTuple):
    """A caption and, per name in order, its (begin, end) characters."""

    caption: str
    spans: list[tuple[int, int]]


def join_names(
    names: Sequence[str],
    separation_tokens: str,
    *,
    start: str = "",
    prompts: Sequence[NamePrompt] | None = None,
) -> Wording:
    """Write the cleaned names one after another, `separation_tokens` between them.

    Args:
        start: text in front of the first name (see `DETECTION_PREFIX`).
        prompts: one per name; their `name` replaces the class name.
    """
    caption, spans = start, []
    for i, name in enumerate(names):
        prompt = prompts[i] if prompts else NamePrompt("", name, "")
        caption += prompt.prefix
        begin = len(caption)
        caption += clean_name(prompt.name)
        spans.append((begin, len(caption)))
        caption += prompt.suffix
        if i + 1 < len(names):
            caption += separation_tokens
    return Wording(caption, spans)


def prompts_by_category(
    caption_prompt: Sequence[Mapping[str, str]] | str | Path | None, category_ids: Sequence[int]
) -> dict[int, NamePrompt] | None:
    """Prompts of DATASETS.CAPTION_PROMPT keyed by category id.

    Prompts are written in the order of the sorted category ids. Keying them by id keeps prompt and
    class together when the classes are split into chunks or shuffled.

    Args:
        caption_prompt: list of {prefix, name, suffix}, or the path of a YAML file with that list,
            or None.
    Raises:
        FileNotFoundError, ConfigError: no such file, a malformed entry, or another number of prompts
            than classes.
    """
    if caption_prompt is None:
        return None
    source = "DATASETS.CAPTION_PROMPT"
    if isinstance(caption_prompt, (str, Path)):
        source = str(caption_prompt)
        if not Path(caption_prompt).is_file():
            raise FileNotFoundError(f"DATASETS.CAPTION_PROMPT names {source}, which does not exist")
        try:
            caption_prompt = yaml.safe_load(Path(caption_prompt).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(caption_prompt, (list, tuple)):
        raise ConfigError(
            f"{source} must be a list of {{prefix, name, suffix}}, got {caption_prompt!r}"
        )
    for i, entry in enumerate(caption_prompt):
        if not isinstance(entry, Mapping) or "name" not in entry:
            raise ConfigError(f"{source}: entry {i} must be a mapping with a 'name', got {entry!r}")
    if len(caption_prompt) != len(category_ids):
        raise ConfigError(
            f"{source} has {len(caption_prompt)} entries for {len(category_ids)} classes: "
            "give one prompt per class, in the order of the class ids"
        )
    return {
        category: NamePrompt(entry.get("prefix", ""), entry["name"], entry.get("suffix", ""))
        for category, entry in zip(sorted(category_ids), caption_prompt, strict=True)
    }
