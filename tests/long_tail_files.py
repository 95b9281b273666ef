"""Miniatures of ImageNet-LT and iNaturalist 2018 on disk: small coloured JPEGs in the true layout, true-format lists.

ImageNet-LT at a hundredth: 1,158 training images of 20 classes (4 Many, 8 Medium, 8 Few), which like the true ones are
not sorted by size; 2 validation images a class from the training folders (the true list: 20); 5 test images a class
(50). The colour tells the class.
"""

import colorsys
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

IMAGENET_COUNTS = [43, 8, 211, 24, 96, 5, 65, 142, 12, 174, 53, 19, 79, 6, 29, 116, 10, 35, 15, 16]
INATURALIST_COUNTS = [2, 10, 3, 30, 5, 2]
KINGDOMS = ("Plantae", "Insecta", "Aves")


@dataclass(frozen=True)
class ListedImages:
    """Folder of the images, and the lists whose paths are relative to it."""

    root: Path
    train_list: Path
    val_list: Path
    test_list: Path


def write_imagenet_lt(folder, counts=IMAGENET_COUNTS, side=32):
    """`train/<wnid>/<wnid>_<n>.JPEG` and `val/<wnid>/ILSVRC2012_val_<n>.JPEG`, with lists beside them."""
    rng = np.random.default_rng(0)
    root = Path(folder) / "imagenet"
    train, val, test = [], [], []
    for label, count in enumerate(counts):
        wnid = f"n{1440764 + 1000 * label:08d}"
        names = [f"train/{wnid}/{wnid}_{number}.JPEG" for number in rng.permutation(10_000)[: count + 2]]
        train += [(name, label) for name in names[:count]]
        val += [(name, label) for name in names[count:]]
        test += [
            (f"val/{wnid}/ILSVRC2012_val_{number * len(counts) + label + 1:08d}.JPEG", label) for number in range(5)
        ]
    for name, label in train + val + test:
        write_image(root / name, label, len(counts), side, rng)
    lists = [
        write_list(Path(folder) / f"ImageNet_LT_{split}.txt", rows)
        for split, rows in (("train", train), ("val", val), ("test", test))
    ]
    return ListedImages(root, *lists)


def write_imagenet_parquet(folder, images, appended=True):
    """The images of `write_imagenet_lt` as the Hub's `ILSVRC/imagenet-1k`, shuffled, with an unlabelled test split.

    appended: Whether file names carry the class once more: `n01440764_10026_n01440764.JPEG`.
    """
    wnids = sorted(path.name for path in (images.root / "train").iterdir())
    features = Features({"image": Image(), "label": ClassLabel(names=[f"name of {wnid}" for wnid in wnids])})
    folder = Path(folder) / "data"
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation"), ("val", "test")):
        files = sorted((images.root / split).rglob("*.JPEG"))
        np.random.default_rng(1).shuffle(files)
        rows = []
        for file in files:
            wnid = file.parent.name
            stem = f"{file.stem}_{wnid}" if appended else file.stem
            label = wnids.index(wnid)
            if name == "test":
                stem, label = file.stem.replace("val", "test"), -1
            rows.append({"image": {"bytes": file.read_bytes(), "path": f"{stem}.JPEG"}, "label": label})
        shards = 2 if name == "train" else 1
        for shard in range(shards):
            columns = {key: [row[key] for row in rows[shard::shards]] for key in features}
            Dataset.from_dict(columns, features=features).to_parquet(
                folder / f"{name}-{shard:05d}-of-{shards:05d}.parquet"
            )
    return folder.parent


def write_inaturalist(folder, counts=INATURALIST_COUNTS, side=32):
    """`train_val2018/<kingdom>/<class>/<hash>.jpg`, with lists and `train2018.json`, `val2018.json` beside them."""
    rng = np.random.default_rng(0)
    root = Path(folder) / "inaturalist"
    splits = {"train": [], "val": []}
    for label, count in enumerate(counts):
        for number in range(count + 3):
            name = hashlib.md5(f"{label} {number}".encode()).hexdigest()
            path = f"train_val2018/{KINGDOMS[label % len(KINGDOMS)]}/{label}/{name}.jpg"
            splits["train" if number < count else "val"].append((path, label))
            write_image(root / path, label, len(counts), side, rng)
    categories = [
        {"id": label, "name": f"Genus species{label}", "supercategory": KINGDOMS[label % len(KINGDOMS)]}
        for label in range(len(counts))
    ]
    for split, rows in splits.items():
        rng.shuffle(rows)
        write_list(Path(folder) / f"iNaturalist18_{split}.txt", rows)
        first = 1 + 1000 * (split == "val")
        annotations = {
            "info": {"year": 2018},
            "images": [{"id": first + i, "file_name": path, "width": side} for i, (path, _) in enumerate(rows)],
            "categories": categories,
            "annotations": [
                {"id": first + i, "image_id": first + i, "category_id": int(label)}
                for i, (_, label) in enumerate(rows)
            ],
        }
        (Path(folder) / f"{split}2018.json").write_text(json.dumps(annotations))
    val_list = Path(folder) / "iNaturalist18_val.txt"
    return ListedImages(root, Path(folder) / "iNaturalist18_train.txt", val_list, val_list)


def write_annotations(folder, **parts):
    """`train2018.json` of 'a/0.jpg' (class 0) and 'b/1.jpg' (class 1), some parts replaced, or left out if None."""
    data = {
        "images": [{"id": 10, "file_name": "a/0.jpg"}, {"id": 11, "file_name": "b/1.jpg"}],
        "annotations": [{"id": 1, "image_id": 11, "category_id": 1}, {"id": 2, "image_id": 10, "category_id": 0}],
        "categories": [{"id": 1, "name": "bee"}, {"id": 0, "name": "ant"}],
    } | parts
    file = folder / "train2018.json"
    file.write_text(json.dumps({name: part for name, part in data.items() if part is not None}))
    return file


def write_list(file, rows):
    file.write_text("".join(f"{path} {label}\n" for path, label in rows))
    return file


def write_image(file, label, num_classes, side, rng):
    """A noisy square whose hue is that of the class."""
    colour = 255 * np.array(colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.8))
    pixels = colour + rng.normal(scale=12, size=(side, side, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, format="JPEG")
