"""What the defaults promise: read by nothing is what stands under "Without effect", no more."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import CfgNode, cfg, default_config

ROOT = Path(__file__).parents[2]
DEFAULTS = ROOT / "maskrcnn_benchmark" / "config" / "defaults"
SECTIONS = {name for name, value in cfg.items() if isinstance(value, CfgNode)}


class _Reads(ast.NodeVisitor):
    """Keys that one file reads: ``cfg.MODEL.RPN.FREEZE``, ``rpn.FREEZE``, ``cfg.MODEL.RPN[key]``.

    ``rpn`` is what the function, else the file, else any file assigns to a variable of that name
    (parameters carry the names of the variables that are passed).
    """

    def __init__(self, elsewhere: dict[str, set[str]]) -> None:
        self.scopes: list[dict[str, set[str]]] = [elsewhere]
        self.found: set[str] = set()
        self.refused: set[str] = set()  # those whose value may be an error
        self.looked_up: set[str] = set()  # sections of which keys are read by name
        self.refusing: set[str] = set()
        self.texts: set[str] = set()

    def scan(self, tree: ast.AST) -> None:
        self.scopes.append(_aliases(tree))
        self.visit(tree)
        self.found |= {f"{section}.{key}" for section in self.looked_up for key in self.texts}
        self.refused |= {f"{section}.{key}" for section in self.refusing for key in self.texts}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scopes.append(_aliases(node))
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.found |= self.paths(node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self.looked_up |= self.paths(node.value)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.body[0], ast.Raise) and "ConfigError" in ast.unparse(node.body[0]):
            for part in ast.walk(node.test):
                if isinstance(part, ast.Subscript):
                    self.refusing |= self.paths(part.value)
                self.refused |= self.paths(part)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)

    def paths(self, node: ast.AST) -> set[str]:
        """Dotted keys or sections that an expression may mean."""
        base, names = _chain(node)
        for scope in reversed(self.scopes):
            if base in scope:
                return {".".join((section, *names)) for section in scope[base]}
        return _absolute(node)


def _chain(node: ast.AST) -> tuple[str, list[str]]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), names[::-1]


def _absolute(node: ast.AST) -> set[str]:
    """``cfg.MODEL.RPN`` as MODEL.RPN, whatever the tree is called."""
    base, names = _chain(node)
    starts = [place for place, name in enumerate(names) if name in SECTIONS]
    if starts:
        return {".".join(names[starts[0] :])}
    return {names[-1]} if names and names[-1] in cfg and base != "args" else set()


def _aliases(tree: ast.AST) -> dict[str, set[str]]:
    """Variables that stand for sections, ``model, rpn = cfg.MODEL, cfg.MODEL.RPN``."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        pairs = [(target, node.value) for target in node.targets]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs += zip(target.elts, value.elts)
            elif isinstance(target, ast.Name):
                for path in _absolute(value):
                    if path.split(".")[0] in SECTIONS and _is_section(path):
                        found[target.id].add(path)
    return found


def _is_section(path: str) -> bool:
    node = cfg
    for name in path.split("."):
        node = node.get(name) if isinstance(node, CfgNode) else None
    return isinstance(node, CfgNode)


@pytest.fixture(scope="module")
def uses() -> tuple[set[str], set[str]]:
    """Keys and sections that the package or a tool reads, and those of which it refuses values."""
    files = [*(ROOT / "maskrcnn_benchmark").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in files if DEFAULTS not in path.parents]
    elsewhere: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for name, sections in _aliases(tree).items():
            elsewhere[name] |= sections
    read, refused = set(), set()
    for tree in trees:
        reads = _Reads(elsewhere)
        reads.scan(tree)
        read |= reads.found
        refused |= reads.refused
    return read, refused


@pytest.fixture(scope="module")
def comments() -> dict[str, str]:
    """What stands over and beside each key, and names its function and file, in lower case."""
    places: dict[tuple[int, str], tuple[Path, int]] = {}

    def remember(node: CfgNode, name: str, value: object) -> None:
        caller = sys._getframe(1)
        places[id(node), name] = Path(caller.f_code.co_filename), caller.f_lineno
        plain(node, name, value)

    plain = CfgNode.__setattr__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CfgNode, "__setattr__", remember)
        tree = default_config()
    found = {}
    sections = [("", tree)]
    for prefix, section in sections:
        for name, value in section.items():
            if isinstance(value, CfgNode) and value:
                sections.append((f"{prefix}{name}.", value))
            else:
                found[prefix + name] = _words(*places[id(section), name])
    return found


def _words(path: Path, number: int) -> str:
    lines = path.read_text().splitlines()
    own = number - 1
    block = own
    while lines[block].strip() and not lines[block].lstrip().startswith("def "):
        block -= 1
    function = max(n for n in range(own) if lines[n].startswith("def "))
    said = [line for line in lines[block:own] if line.lstrip().startswith("#")]
    said += [lines[own].partition("#")[2], lines[0], lines[function].replace("_", " ")]
    return "\n".join(said).lower()


def test_what_nothing_reads_stands_under_without_effect(uses, comments):
    promised = {key for key, words in comments.items() if "without effect" not in words}
    assert sorted(promised - uses[0]) == []


def test_what_stands_under_without_effect_is_read_by_nothing(uses, comments):
    disowned = {key for key, words in comments.items() if "without effect" in words}
    assert sorted(disowned & uses[0]) == []


def test_what_is_said_to_be_refused_is_refused(uses, comments):
    said = {
        key
        for key, words in comments.items()
        if "refused" in words and "without effect" not in words
    }
    assert len(said) >= 10
    assert sorted(said - uses[1]) == []
