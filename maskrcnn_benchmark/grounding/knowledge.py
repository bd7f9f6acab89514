"""What is known about classes, and the sentence that says it about each (GLIPKNOW)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_benchmark.errors import ConfigError, DataError

# Fields of a class in a knowledge file that hold a text, or a list of texts.
SOURCES = ("def_wiki", "def_wn", "path_wn", "path_wn3", "path_wn10", "gpt3")
WIKI_AND_GPT3 = "gpt3_and_wiki"

# Class name, as the annotations have it, to the fields of its entry.
Knowledge = Mapping[str, Mapping[str, Any]]


def knowledge_sources(kind: str, *, wiki_and_gpt3: bool = False) -> tuple[str, ...]:
    """Fields that make the text of a class, in order.

    Args:
        kind: GLIPKNOW.KNOWLEDGE_TYPE, one of `SOURCES` or "gpt3_and_wiki".
        wiki_and_gpt3: both sources, whatever the kind (GLIPKNOW.WIKI_AND_GPT3).
    Raises:
        ConfigError: the kind is unknown, or empty where it decides.
    """
    choices = (*SOURCES, WIKI_AND_GPT3)
    if kind not in choices and not (wiki_and_gpt3 and kind == ""):
        raise ConfigError(f"GLIPKNOW.KNOWLEDGE_TYPE is {kind!r}, not one of {', '.join(choices)}")
    return ("def_wiki", "gpt3") if wiki_and_gpt3 or kind == WIKI_AND_GPT3 else (kind,)


def read_knowledge(path: str | Path) -> dict[str, dict[str, Any]]:
    """The entries of a knowledge file: class name -> {clean_name, def_wiki, gpt3, ...}.

    Every field may be absent, null or empty; fields that are not known are not looked at.

    Raises:
        FileNotFoundError, DataError: no such file, or content of another form; the message names
            the file and the class.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"GLIPKNOW.KNOWLEDGE_FILE names {path}, which does not exist")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must map class names to their texts, got {_shown(content)}")
    for name, entry in content.items():
        if not isinstance(name, str):
            raise DataError(f"{path}: the class name {name!r} is not a text: write it in quotes")
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}: {name!r} must be a mapping of fields ({', '.join(SOURCES)}), "
                f"got {_shown(entry)}"
            )
        _check_entry(entry, f"{path}: {name!r}")
    return content


def class_sentences(
    names: Sequence[str], knowledge: Knowledge, sources: Sequence[str], list_limit: int
) -> list[str]:
    """One sentence per class: "clean name: what is known".

    A class that is not known is its name as it stands, one without any text its clean name alone.

    Args:
        names: class names.
        sources: fields whose texts follow one another, see `knowledge_sources`.
        list_limit: at most this many texts of a field that has a list (GLIPKNOW.GPT3_NUM).
    """
    return [
        _sentence(name, knowledge[name], sources, list_limit) if name in knowledge else name
        for name in names
    ]


def _sentence(name: str, entry: Mapping[str, Any], sources: Sequence[str], list_limit: int) -> str:
    texts = [text for source in sources for text in _texts(entry.get(source), list_limit)]
    clean = entry.get("clean_name") or name
    return f"{clean}: {' '.join(texts)}" if texts else clean


def _texts(value: str | list[str | None] | None, list_limit: int) -> list[str]:
    """What a field says, without the blanks around it; nothing for what is null or empty."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.strip() for part in parts if part is not None and part.strip()]
    return texts[:list_limit] if isinstance(value, list) else texts


def _check_entry(entry: Mapping[str, Any], place: str) -> None:
    clean = entry.get("clean_name")
    if clean is not None and not isinstance(clean, str):
        raise DataError(f"{place}: 'clean_name' must be a text, got {_shown(clean)}")
    for source in SOURCES:
        value = entry.get(source)
        parts = value if isinstance(value, list) else [value]
        if not all(part is None or isinstance(part, str) for part in parts):
            raise DataError(
                f"{place}: {source!r} must be a text or a list of texts, got {_shown(value)}"
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
