"""Images of every kind that a folder may hold: each is read, or refused with its name and what is wrong."""

import re

import image_files
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, concatenate_datasets

from bce3s_hf.data.encoded_images import EncodedImages, UnreadableImage, unreadable_images
from bce3s_hf.data.image_dataset import ImageDataset
from bce3s_hf.data.pixels import eval_transform
from bce3s_hf.data.train_transforms import train_transform

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Pillow leaves a truncated PNG open
CONFIG = {
    "input_size": [3, 16, 16],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
WHOLE, SPOILED = image_files.whole(), image_files.spoiled()
RED = torch.tensor([1.0, 0.0, 0.0])


def images_of(*images):
    return Dataset.from_dict({"image": list(images), "label": [0] * len(images)}, features=FEATURES)


def dataset_of(images, augmentation):
    augment = train_transform(CONFIG, augmentation) if augmentation else None
    return ImageDataset(images, eval_transform(CONFIG), augmentation=augment, pixel_range=(0, 65535))


@pytest.mark.parametrize("augmentation", ["random_resized_crop", "crop_flip", None])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_image_is_used(tmp_path, name, augmentation):
    (tmp_path / name).write_bytes(WHOLE[name])
    item = dataset_of(images_of(str(tmp_path / name)), augmentation)[0]["pixel_values"]
    assert item.shape == (3, 16, 16)
    values = item.float() / (255 if item.dtype == torch.uint8 else 1)
    if name not in ("16_bit.png", "cmyk.jpg") and augmentation is None:  # the others are red at first
        torch.testing.assert_close(values.mean((1, 2)), RED, atol=0.02, rtol=0)
    if name == "16_bit.png" and augmentation is None:  # from black to white, not clipped
        assert values[:, 0].max() < 0.1 and values[:, -1].min() > 0.9


@pytest.mark.parametrize("augmentation", ["random_resized_crop", None])
@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_image_is_refused_by_name(tmp_path, name, augmentation):
    content, problem = SPOILED[name]
    (tmp_path / name).write_bytes(content)
    dataset = dataset_of(images_of(image_files.NOISE, str(tmp_path / name)), augmentation)
    with pytest.raises(
        ValueError, match=rf"image 1 \({tmp_path}/{name}\) cannot be read: .*({problem}).*on_bad_image"
    ):
        dataset[1]


def test_unreadable_images_are_found_in_the_order_of_rows(tmp_path):
    for name, (content, _) in SPOILED.items():
        (tmp_path / name).write_bytes(content)
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content)
    names = [name for pair in zip(WHOLE, SPOILED, strict=False) for name in pair]
    embedded = {"bytes": SPOILED["truncated.png"][0], "path": None}
    images = images_of(*(str(tmp_path / name) for name in names), None, embedded, str(tmp_path / "gone.png"))
    found = unreadable_images(images, "image", range(len(images)))
    odd = list(range(1, len(names), 2))
    assert [image.row for image in found] == [*odd, len(names), len(names) + 1, len(names) + 2]
    for image in found[: len(odd)]:
        assert image.path == str(tmp_path / names[image.row])
        assert re.search(SPOILED[names[image.row]][1], image.problem)
    none, truncated, gone = found[len(odd) :]
    assert none == UnreadableImage(len(names), None, "the row holds no image")
    assert re.match(r"image \d+ \(embedded in the dataset\) cannot be read: .*truncated", str(truncated))
    assert re.search(r"\(.*/gone\.png\) cannot be read: .*No such file", str(gone))
    assert [image.row for image in unreadable_images(images, "image", range(1, len(names), 4))] == odd[::2]


def test_rows_without_an_image_are_found_among_the_chosen_ones():
    row, gone = {"bytes": b"image", "path": None}, {"bytes": None, "path": "gone.png"}
    images = images_of(row, None, gone, row, None, row)
    stored = images.data.table.set_column(
        0, "image", pa.array([row, None, gone, {"bytes": None, "path": None}] * 2)[:6]
    )
    images = concatenate_datasets([images, Dataset(stored, info=images.info)])
    assert EncodedImages(images, "image").missing().tolist() == [1, 4, 7, 9, 11]
    for rows in ([0, 2, 3, 5, 6], [4, 0, 1], range(4, 12), range(2, 4), []):
        found = EncodedImages(images.select(rows), "image").missing()
        assert found.tolist() == [place for place, row in enumerate(rows) if row in (1, 4, 7, 9, 11)]


def test_paths_of_images_are_named(tmp_path):
    (tmp_path / "red.png").write_bytes(WHOLE["one_pixel.png"])
    dataset = dataset_of(images_of(image_files.NOISE, str(tmp_path / "red.png"), image_files.NOISE), None)
    assert dataset.image_names([1, 0, 2, 1]) == [f"1 ({tmp_path}/red.png)", "0", "2", f"1 ({tmp_path}/red.png)"]
