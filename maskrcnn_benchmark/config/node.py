"""The configuration tree: yacs nodes whose errors say where, what and what else was meant.

Values are decoded and checked as yacs does (Python literals, one type per key, unknown keys
refused), with two differences: an integer is accepted where a float is expected, and every
refusal names the file, the key, what was expected and the nearest valid keys.
"""

import copy
import difflib
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from maskrcnn_benchmark.errors import ConfigError

_COMMAND_LINE = "the command line"
_LEAF_TYPES = (tuple, list, str, int, float, bool, type(None))


class CfgNode(_YacsNode):
    """One node of the configuration tree: attributes are leaves or further nodes."""

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file into this tree.

        Raises:
            FileNotFoundError: the file is not there.
            ConfigError: the file is not a YAML mapping, or a setting in it cannot be used.
        """
        path = Path(cfg_filename)
        if not path.is_file():
            raise FileNotFoundError(f"configuration file {path} does not exist")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not a text file: {error}") from error
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise ConfigError(
                f"{path} must hold a mapping of settings, found {type(content).__name__}"
            )
        self._merge_dict(content, str(path))

    def merge_from_other_cfg(self, cfg_other: dict) -> None:
        """Merge another tree (or a nested dict) into this one."""
        self._merge_dict(cfg_other, "the given settings")

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge `[KEY, value, KEY, value, ...]`; keys are dotted, e.g. "SOLVER.BASE_LR".

        Raises:
            ConfigError: a key without a value, an unknown key, or a value of another type.
        """
        if len(cfg_list) % 2:
            raise ConfigError(
                f"settings on {_COMMAND_LINE} come as pairs KEY VALUE, "
                f"but {len(cfg_list)} words were given: {' '.join(map(str, cfg_list))}"
            )
        self._refuse_if_frozen(_COMMAND_LINE)
        for full_key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            node, leaf = self._find(str(full_key))
            node._assign(leaf, value, str(full_key), _COMMAND_LINE, self)

    def leaves(self, prefix: str = "") -> dict[str, Any]:
        """Every setting of this tree as {dotted key: value}."""
        found: dict[str, Any] = {}
        for key, value in self.items():
            if isinstance(value, CfgNode):
                found.update(value.leaves(f"{prefix}{key}."))
            else:
                found[f"{prefix}{key}"] = value
        return found

    def _find(self, full_key: str) -> tuple["CfgNode", str]:
        *parents, leaf = full_key.split(".")
        node: Any = self
        for name in parents:
            if not isinstance(node, CfgNode) or name not in node:
                raise _unknown_key(full_key, _COMMAND_LINE, self)
            node = node[name]
        if not isinstance(node, CfgNode) or leaf not in node:
            raise _unknown_key(full_key, _COMMAND_LINE, self)
        return node, leaf

    def _merge_dict(self, settings: dict, source: str) -> None:
        """Try on a copy first: a file that cannot be used leaves the tree as it was."""
        self._refuse_if_frozen(source)
        trial = self.clone()
        trial._merge(settings, source, trial, ())
        self._merge(settings, source, self, ())

    def _merge(
        self, settings: dict, source: str, root: "CfgNode", parents: tuple[str, ...]
    ) -> None:
        for key, value in settings.items():
            full_key = ".".join((*parents, str(key)))
            if key in self:
                self._assign(key, copy.deepcopy(value), full_key, source, root)
            elif self.is_new_allowed() and isinstance(key, str):
                self[key] = _new_value(copy.deepcopy(value), full_key, source)
            else:
                raise _unknown_key(full_key, source, root)

    def _assign(self, key: str, value: Any, full_key: str, source: str, root: "CfgNode") -> None:
        current = self[key]
        value = _decode(value)
        if isinstance(current, CfgNode):
            if value is None:  # an empty section of a YAML file
                return
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{source}: {full_key} is a section of settings, "
                    f"it cannot take the value {value!r}"
                )
            current._merge(value, source, root, tuple(full_key.split(".")))
            return
        self[key] = _coerce(value, current, full_key, source)

    def _refuse_if_frozen(self, source: str) -> None:
        if self.is_frozen():
            raise AttributeError(
                f"cannot merge {source}: this configuration is frozen; "
                "call defrost() or merge into a clone()"
            )


def _decode(value: Any) -> Any:
    """A string that reads as a Python literal becomes that literal, any other stays a string."""
    if not isinstance(value, str):
        return value
    try:
        literal = literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
    # "..." and b"x" are literals too, but of no type that a setting may have.
    return literal if isinstance(literal, (*_LEAF_TYPES, dict)) else value


def _new_value(value: Any, full_key: str, source: str) -> Any:
    """Value of a key that did not exist; sections below it are closed for later files."""
    value = _decode(value)
    if isinstance(value, dict):
        node = CfgNode()
        for key, item in value.items():
            node[str(key)] = _new_value(item, f"{full_key}.{key}", source)
        return node
    _check_storable(value, full_key, source)
    return value


def _coerce(value: Any, current: Any, full_key: str, source: str) -> Any:
    """`value` in the type of `current`, or ConfigError."""
    _check_storable(value, full_key, source)
    expected, got = type(current), type(value)
    if got is expected or current is None or value is None:
        return value
    if (expected, got) in ((tuple, list), (list, tuple)):
        return expected(value)
    if expected is float and got is int:
        return float(value)
    raise ConfigError(
        f"{source}: {full_key} expected {_with_article(expected)} (such as {current!r}), "
        f"got {_with_article(got)}: {value!r}{_hint(value, current)}"
    )


def _check_storable(value: Any, full_key: str, source: str) -> None:
    if isinstance(value, _LEAF_TYPES):
        return
    raise ConfigError(
        f"{source}: {full_key} cannot hold {_with_article(type(value))}: {value!r}; allowed are "
        "numbers, text, True/False, None, tuples and lists"
    )


def _with_article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"


def _hint(value: Any, current: Any) -> str:
    if isinstance(current, tuple):
        return f"; a tuple of one entry is written ({value!r},)"
    if isinstance(current, str):
        return f"""; to keep it a text, quote it twice: "'{value}'" """.rstrip()
    if isinstance(current, bool):
        return "; write True or False"
    return ""


def _unknown_key(full_key: str, source: str, root: CfgNode) -> ConfigError:
    return ConfigError(f"{source}: unknown key {full_key}{_near_misses(full_key, root)}")


def _near_misses(full_key: str, root: CfgNode, count: int = 3) -> str:
    """Sentence that names the valid keys closest to `full_key`, whole or by its last word."""
    known = [*root.leaves(), *_sections(root)]
    by_upper = {key.upper(): key for key in known}
    close = difflib.get_close_matches(full_key.upper(), list(by_upper), n=count, cutoff=0.75)
    last = full_key.upper().rpartition(".")[2]
    same_last = [key for key in by_upper if key.rpartition(".")[2] == last]
    parent = full_key.upper().rpartition(".")[0]
    same_last.sort(key=lambda key: -difflib.SequenceMatcher(None, key, parent).ratio())
    names = list(dict.fromkeys([*same_last[:count], *close]))[:count]
    if not names:
        names = difflib.get_close_matches(full_key.upper(), list(by_upper), n=count, cutoff=0.4)
    if not names:
        return ""
    return "; nearest valid keys: " + ", ".join(by_upper[name] for name in names)


def _sections(node: CfgNode, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        if isinstance(value, CfgNode):
            found += [f"{prefix}{key}", *_sections(value, f"{prefix}{key}.")]
    return found
