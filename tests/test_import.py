"""Importing the package is quick: what is slow to import waits until it is used."""

import subprocess
import sys

SLOW = {"sklearn", "matplotlib", "onnx", "onnxruntime"}


def test_what_is_slow_to_import_waits():
    before = "import sys, timm; from transformers import Trainer; known = set(sys.modules)"  # which may import sklearn
    code = f"{before}; import bce3s_hf; print(sorted({SLOW!r} & sys.modules.keys() - known))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
