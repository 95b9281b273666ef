"""Imports inside the package go one way, and the losses need torch alone."""

import ast
import sys

from conftest import ROOT

ORDER = ["text", "losses", "data", "models", "evaluation", "hub", "training", "experiments", "__init__"]
PACKAGE = ROOT / "bce3s_hf"


def unit(path):
    """First name below the package: a folder or a module."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Modules that a file imports, at any depth of its code; "." in front of relative ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_one_way():
    files = sorted(PACKAGE.rglob("*.py"))
    assert {unit(path) for path in files} == set(ORDER)
    for path in files:
        lower = ORDER[: ORDER.index(unit(path)) + 1]
        for module in imported(path):
            root, _, rest = module.partition(".")
            assert root and (root != "bce3s_hf" or rest.split(".")[0] in lower), f"{path} imports {module}"


def test_losses_import_torch_alone():
    for path in (PACKAGE / "losses").glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names <= {"torch", "bce3s_hf"}
