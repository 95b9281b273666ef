"""ONNX export of a published folder; needs the extra `onnx`."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.timm_folder import ONNX_FILE

INPUT, OUTPUT = "pixel_values", "logits"
TOLERANCE = 1e-4
_MODULES = ("onnx", "onnxscript", "onnxruntime")
_NOTES = ("metadata_props", "doc_string")  # of a model, graph, node, function or value
_OPSET = 18  # that of the exporter itself: a higher one is made from it by conversion


class _Logits(nn.Module):
    """A classifier that returns nothing but its logits."""

    def __init__(self, model: BCE3SForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def check_onnx_installed() -> None:
    """Raise ValueError unless what ONNX export needs is installed."""
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise ValueError(f'onnx needs {", ".join(missing)}: pip install "bce3s_hf[onnx]"')


def export_onnx(folder: Path) -> Path:
    """Write `model.onnx` beside a model: from `pixel_values` (B, C, H, W) to `logits` (B, K), for any B.

    All is in the one file, up to 2 GB, without a name of a folder of this machine. Before it is kept, onnxruntime runs
    it on random images of a batch of 1 and of 3: its logits are those of PyTorch, to 1e-4.

    Args:
        folder: A published one, or one that the Trainer saved.

    Returns:
        The file.

    Raises:
        ValueError: If the extra `onnx` is not installed, the model cannot be exported, or its logits differ.
    """
    check_onnx_installed()
    model = _Logits(BCE3SForImageClassification.from_pretrained(folder, dtype=torch.float32)).eval()
    file = Path(folder) / ONNX_FILE
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randn(size, *model.model.config.data_config["input_size"], generator=generator) for size in (1, 3)
    ]
    try:
        torch.onnx.export(
            model,
            (batches[-1],),
            str(file),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch", max=2**20)}},  # torch 2.6 wants a bound
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # of torch, onnxscript, onnx_ir or protobuf
        installed = ", ".join(f"{name} {version(name)}" for name in ("torch", *_MODULES))
        raise ValueError(
            f"the model cannot be exported to ONNX by {installed}: {error}. A torch older than onnxscript may be the "
            "reason: torch 2.6 needs onnxscript 0.2.7 to 0.5.0 and protobuf below 6"
        ) from error
    _clear_notes(file)
    difference = max(_difference(model, file, batch) for batch in batches)
    if not difference <= TOLERANCE:
        file.unlink()
        raise ValueError(
            f"the logits of onnxruntime differ from those of PyTorch by {difference:.3g}; no file is kept"
        )
    return file


def _clear_notes(file: Path) -> None:
    """Take out what the exporter noted of every node: stack traces, with the folders of this machine."""
    import onnx  # of the extra

    model = onnx.load(file)
    _clear_notes_of(model)
    onnx.save(model, file)


def _clear_notes_of(message: Any) -> None:
    """Of a protobuf message and of all inside it."""
    for field, value in message.ListFields():
        if field.name in _NOTES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _clear_notes_of(part)


@torch.no_grad()
def _difference(model: nn.Module, file: Path, images: Tensor) -> float:
    """Largest difference of a logit, relative to it where it is above 1."""
    expected, found = model(images).numpy(), onnx_logits(file, images.numpy())
    return float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))))


def onnx_logits(file: Path, images: np.ndarray) -> np.ndarray:
    """Logits (B, K) by onnxruntime, on the CPU.

    Args:
        file: What `export_onnx` wrote.
        images: As `eval_transform` makes them, float32 (B, C, H, W).
    """
    import onnxruntime  # of the extra

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images})[0]
