"""Load a published CIFAR ResNet in the three ways of a machine without this package, and compare their scores.

python tests/without_package.py FOLDER [PICTURE]

Each way has a process of its own, in which no other has registered the network. Prints the five best classes of each;
fails if the package can be imported, or if a score differs by more than 1e-5.
"""

import argparse
import importlib
import json
import sys
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

TOLERANCE = 1e-5


def by_timm(folder, image):
    sys.path.insert(0, folder)
    importlib.import_module("modeling_resnet_cifar")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model))
    names = json.loads((Path(folder) / "config.json").read_text())["label_names"]
    return dict(zip(names, model(transform(image)[None])[0].sigmoid().tolist(), strict=True))


def by_auto_model(folder, image):
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    scores = model(**processor(image, return_tensors="pt")).logits[0].sigmoid().tolist()
    return {model.config.id2label[label]: score for label, score in enumerate(scores)}


def by_pipeline(folder, image):
    classify = pipeline("image-classification", folder, trust_remote_code=True)
    return {answer["label"]: answer["score"] for answer in classify(image, top_k=classify.model.config.num_labels)}


WAYS = (by_timm, by_auto_model, by_pipeline)


def scores_without_package(way, folder, image):
    with torch.no_grad():
        scores = way(folder, image)
    assert find_spec("bce3s_hf") is None, "bce3s_hf can be imported here"
    return scores


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path, nargs="?", help="a gradient if left out")
    options = parser.parse_args()
    if options.picture is None:
        image = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turn) for turn in range(3)])
    else:
        image = Image.open(options.picture).convert("RGB")
    results = []
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for way in WAYS:
            scores = pool.apply(scores_without_package, (way, str(options.folder.absolute()), image))
            best = sorted(scores, key=scores.get, reverse=True)[:5]
            sys.stdout.write(f"{way.__name__}: {', '.join(f'{name} {scores[name]:.6f}' for name in best)}\n")
            results.append(scores)
    assert results[0].keys() == results[1].keys() == results[2].keys(), "the class names differ"
    difference = max(abs(scores[name] - results[0][name]) for scores in results for name in scores)
    assert difference <= TOLERANCE, f"the scores differ by {difference:.2g}"


if __name__ == "__main__":
    main()
