"""ONNX files that onnxruntime runs with the logits of PyTorch, on real images, in batches of any size."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from bce3s_hf import BCE3SForImageClassification, eval_transform, load_images
from bce3s_hf.hub import onnx as onnx_export
from bce3s_hf.hub.onnx import check_onnx_installed, export_onnx, onnx_logits


def make_model(name, **settings):
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm(name, num_labels=10, **settings)
    with torch.no_grad():
        model.classifier.weight.mul_(3)  # norms other than one, which the logits must not show
    return model.eval()


@pytest.fixture(scope="module", params=[("resnet20_cifar", 16), ("test_vit", None)], ids=lambda param: param[0])
def exported(request, tmp_path_factory):
    """A published folder's model, and its ONNX file."""
    for module in onnx_export._MODULES:
        pytest.importorskip(module)
    name, size = request.param
    folder = tmp_path_factory.mktemp(name)
    make_model(name, image_size=size).export(folder)
    before = sorted(folder.rglob("*"))
    file = export_onnx(folder)
    assert file == folder / "model.onnx"
    assert sorted(folder.rglob("*")) == sorted([*before, file])  # all in one file
    return BCE3SForImageClassification.from_pretrained(folder).eval(), file


def check_logits(model, file, images):
    transform = eval_transform(model.config.data_config)
    views = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        expected = model(views).logits.numpy()
    for size in (1, 3, len(views)):
        found = np.concatenate([onnx_logits(file, part.numpy()) for part in views.split(size)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(expected - expected[0]).max() > 1e-2  # the images do not all look alike to the model


def test_logits_on_digits_are_those_of_pytorch(exported):
    check_logits(*exported, load_images("digits")["test"][:7]["image"])


def test_logits_on_cifar_are_those_of_pytorch(exported):
    if "BCE3S_DATA" not in os.environ:
        pytest.skip("BCE3S_DATA does not name a folder with cifar100/")
    check_logits(*exported, load_images(os.path.join(os.environ["BCE3S_DATA"], "cifar100"))["test"][:7]["image"])


def test_file_names_its_input_and_output_and_any_batch(exported):
    import onnxruntime

    model, file = exported
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:]) == ("pixel_values", list(model.config.data_config["input_size"]))
    assert (made.name, made.shape[1:]) == ("logits", [10])
    assert isinstance(given.shape[0], str) and given.shape[0] == made.shape[0]


def test_file_tells_nothing_of_this_machine(exported):
    content = exported[1].read_bytes()
    for place in (str(ROOT), "site-packages", f"{Path.home()}/", "bce3s_hf"):
        assert place.encode() not in content
    assert b"stack_trace" not in content


def test_file_with_other_logits_is_not_kept(tmp_path, monkeypatch):
    for module in onnx_export._MODULES:
        pytest.importorskip(module)
    make_model("resnet20_cifar", image_size=8).export(tmp_path)
    monkeypatch.setattr(onnx_export, "onnx_logits", lambda file, images: onnx_logits(file, images) + np.float32(1e-3))
    with pytest.raises(
        ValueError, match="the logits of onnxruntime differ from those of PyTorch by 0.001; no file is"
    ):
        export_onnx(tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_model_that_cannot_be_exported_is_refused_with_the_versions(tmp_path, monkeypatch):
    for module in onnx_export._MODULES:
        pytest.importorskip(module)
    make_model("resnet20_cifar", image_size=8).export(tmp_path)

    def fail(*args, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ValueError, match=r"to ONNX by torch .*, onnx .*, onnxruntime .*: no such operator\. .* torch 2"
    ):
        export_onnx(tmp_path)


def test_without_the_extra_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ValueError, match=r'onnx needs onnxscript: pip install "bce3s_hf\[onnx\]"'):
        check_onnx_installed()
    with pytest.raises(ValueError, match="onnx needs onnxscript"):
        export_onnx(Path("gone"))
