"""The house rules that a machine can check: import order, forbidden calls, file names and lengths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"
# A name imports only from earlier ranks; names of one rank never import each other.
RANKS = (
    {"errors", "atomic", "lean_import", "lock", "parent", "resources"},
    {"memory", "yaml_mapping", "schedulers", "serving", "plugins"},
    {"cluster"},
    {"types"},
    {"registry"},
    {"scans", "models", "metrics"},
    {"phantoms", "cards", "measurements", "doubt", "deidentify"},
    {"quality"},
    {"datasets"},
    {"drawing"},
    {"tasks"},
    {"config"},
    {"tracking"},
    {"bundles"},
    {"training"},
    {"planning"},
    {"inference"},
    {"evaluation"},
    {"studies"},
    {"reports"},
    {"review"},
    {"export"},
    {"pacs"},
    {"live"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "misc", "common"}
LONGEST = 350


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The top-level name a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of ocuseg modules that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pipeline")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            if node.module == "pipeline":
                yield from (f"pipeline.{alias.name}" for alias in node.names)
            elif node.module and node.module.split(".")[0] == "pipeline":
                yield from {_module_of(node.module, alias.name) for alias in node.names}


def _module_of(package: str, name: str) -> str:
    """The module that ``from package import name`` reads: a file of that name, or else the package itself."""
    path = ROOT.joinpath(*package.split("."), name)
    return f"{package}.{name}" if path.with_suffix(".py").is_file() or path.is_dir() else package


def wrong_direction(source: str, target: str) -> bool:
    return source != target and RANK[target] >= RANK[source]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_keeps_the_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    own = part(path)
    if own != "__init__":
        assert own in RANK, f"{own} has no place in the import order"
        for name in imports(tree):
            target = name.split(".")[1] if "." in name else "__init__"
            if target in RANK:
                assert not wrong_direction(own, target), f"{own} may not import {name}"
    assert not FORBIDDEN_NAMES & set(path.relative_to(PACKAGE).with_suffix("").parts)
    assert len(text.splitlines()) <= LONGEST, "too long to read in one sitting"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load"), f"line {node.lineno}: {call}"
            assert call != "print" or own in ("cli", "__main__"), f"line {node.lineno}: print outside cli"
            if call == "torch.load":
                safe = [k for k in node.keywords if k.arg == "weights_only" and getattr(k.value, "value", None) is True]
                assert safe, f"line {node.lineno}: torch.load without weights_only=True"


def test_every_file_and_folder_has_its_place_in_the_import_order() -> None:
    there = {part(path) for path in modules()} - {"__init__"}
    assert there == set(RANK)


def test_the_documented_order_is_the_one_that_is_guarded() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (order,) = re.findall(r"^ {4}(\{errors,.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert [set(re.findall(r"\w+", names)) for names in order.split("<")] == list(RANKS)


def test_no_circle_between_modules() -> None:
    """Nor by imports inside functions or under TYPE_CHECKING: a circle is one however late it closes."""
    graph = {}
    for path in modules():
        name = ".".join(("pipeline", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = {n for n in imports(ast.parse(path.read_text(encoding="utf-8"))) if n != name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "circle: " + " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for target in sorted(graph[name]):
            visit(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_guard_sees_a_wrong_direction() -> None:
    assert wrong_direction("scans", "training")
    assert wrong_direction("scans", "metrics")
    assert not wrong_direction("training", "scans")
    assert list(imports(ast.parse("def f():\n    from pipeline.training import loop"))) == ["pipeline.training.loop"]
    assert list(imports(ast.parse("if TYPE_CHECKING:\n    from pipeline.training.run import train"))) == ["pipeline.training.run"]


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    import subprocess
    import sys

    heavy = "torch monai mlflow pydicom nibabel scipy skimage numpy"
    code = f"import sys, pipeline.cli; print([m for m in {heavy.split()} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
