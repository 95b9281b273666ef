"""Importing the package is quick: what is slow to import waits until it is used."""

import subprocess
import sys

SLOW = {"sklearn", "matplotlib", "onnx", "onnxruntime"}


def test_what_is_slow_to_import_waits():
    code = f"import sys, bce3s_hf; print(sorted({SLOW!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
