"""Imports inside the package point down only, and few files know timm."""

import ast
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "bce3s_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
LOWER_UNITS = {
    "losses": set(),
    "metrics": set(),
    "data": {"escaping"},
    "models": {"losses"},
    "plots": {"escaping", "metrics"},
    "weight_average": set(),
    "training_args": {"data", "models", "hub"},
    "trainer": {
        *("losses", "metrics", "data", "models", "training_args", "weight_average"),
        *("checkpoints", "finite_check", "publishing_trainer", "saving", "trainer_checks"),
    },
    "trainer_checks": {"data", "models", "training_args"},
    "checkpoints": set(),
    "finite_check": {"data"},
    "saving": {"checkpoints"},
    "publishing_trainer": {"hub", "publication", "records"},
    "provenance": {"escaping"},
    "records": {"metrics", "provenance", "training_args"},
    "publication": {"card", "models", "onnx"},
    "escaping": set(),
    "card": {"card_facts", "escaping", "metrics", "models", "plots"},
    "card_facts": {"data", "escaping", "metrics", "models"},
    "evaluation": {"provenance", "metrics", "data", "models"},
    "hub": {"models"},
    "arguments": {"losses", "data", "training_args"},
    "experiment": {
        *("losses", "metrics", "data", "models", "training_args", "trainer", "arguments"),
        *("publication", "records", "saving"),
    },
    "second_stage": {
        *("data", "metrics", "models", "training_args", "trainer", "arguments", "experiment"),
        "publication",
    },
    "thresholds": {"metrics"},
    "checkpoint_thresholds": {
        *("data", "models", "training_args", "trainer", "arguments", "experiment", "second_stage"),
        *("escaping", "prediction", "provenance", "publication", "thresholds"),
    },
    "prediction": {"data", "escaping", "models"},
    "onnx": {"models"},
    "reproduction": {
        *("metrics", "models", "training_args", "arguments", "experiment", "records", "publication"),
        *("checkpoints", "second_stage"),
    },
    "mechanism": {
        *("losses", "data", "metrics", "models", "arguments", "evaluation", "experiment", "publication"),
        *("checkpoints", "reproduction"),
    },
    "benchmark": {
        *("losses", "data", "models", "training_args", "trainer", "prediction", "provenance", "records"),
    },
    "__init__": {"losses", "metrics", "data", "models", "prediction", "training_args", "trainer"},
}

KNOW_TIMM = {"data/transforms.py", "data/mixing.py", "weight_average.py", "trainer.py", "benchmark/photographs.py"}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def unit(path):
    """First name below the package: a folder or a module."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source):
    """(module, is "from x import y") of every import statement, at any depth; "." in front of relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), True
        elif isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)


def third_parties(source):
    roots = {module.split(".")[0] for module, _ in imports(source) if not module.startswith(".")}
    return roots - sys.stdlib_module_names - {"bce3s_hf"}


def offences(source, own_unit):
    """Imports of our own package that are relative, not `from bce3s_hf.x import y`, or do not point down."""
    for module, is_from in imports(source):
        root, _, rest = module.partition(".")
        if root not in ("", "bce3s_hf"):
            continue
        if not (root and rest and is_from) or rest.split(".")[0] not in LOWER_UNITS[own_unit] | {own_unit}:
            yield module


def test_every_unit_has_its_layer():
    assert {unit(path) for path in FILES} == LOWER_UNITS.keys()


@every_file
def test_imports_point_down(path):
    assert not list(offences(path.read_text(), unit(path)))


@every_file
def test_only_models_and_what_timm_does_for_images_and_weights_know_timm(path):
    may = unit(path) == "models" or path.relative_to(PACKAGE).as_posix() in KNOW_TIMM
    assert may or "timm" not in third_parties(path.read_text())


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("losses/*.py", {"torch"}), ("data/long_tail.py", {"numpy"}), ("metrics.py", {"numpy", "sklearn"})],
)
def test_leaves_need_little(name, allowed):
    files = list(PACKAGE.glob(name))
    assert files
    assert set().union(*(third_parties(path.read_text()) for path in files)) <= allowed


@pytest.mark.parametrize(
    "source",
    [
        "from bce3s_hf.trainer import BCE3STrainer",
        "from bce3s_hf.data.sources import LABEL",
        "from bce3s_hf import losses",
        "import bce3s_hf.losses",
        "from . import heads",
        "from .heads import Projector",
        "from ..losses import total_loss",
        "def late():\n    from bce3s_hf.metrics import shot_groups",
    ],
)
def test_offences_are_found(source):
    assert list(offences(source, "models"))


def test_allowed_imports_are_no_offences():
    source = "import torch\nfrom bce3s_hf.losses import total_loss\nfrom bce3s_hf.models.heads import Projector"
    assert not list(offences(source, "models"))
    assert third_parties(source) == {"torch"}
