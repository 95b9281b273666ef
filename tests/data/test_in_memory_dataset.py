"""Batches, seeds of their augmentation, and what is decoded when."""

import pickle
from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate.utils import send_to_device
from datasets import ClassLabel, Dataset, Features, Image, Value
from torch.utils.data import DataLoader

from bce3s_hf.data import encoded_images, in_memory_dataset
from bce3s_hf.data.batch_augmentation import BatchAugmentation
from bce3s_hf.data.image_dataset import ImageDataset, collate_images
from bce3s_hf.data.in_memory_dataset import InMemoryImageDataset
from bce3s_hf.data.pixels import eval_pixels
from bce3s_hf.data.samplers import SampledRow

CONFIG = {
    "input_size": [3, 16, 16],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.5],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
PIXELS = eval_pixels(CONFIG)
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
NOISE = np.random.RandomState(0).randint(0, 256, (12, 16, 16, 3), dtype=np.uint8)


def images_of(*rows, labels=None):
    labels = [row % 2 for row in range(len(rows))] if labels is None else labels
    return Dataset.from_dict({"image": list(rows), "label": labels}, features=FEATURES)


@pytest.fixture(scope="module")
def source():
    return images_of(*NOISE)


def make(source, augmentation="crop", seed=0, config=CONFIG):
    augmentation = augmentation and BatchAugmentation(config, augmentation)
    return InMemoryImageDataset(source, eval_pixels(config), batch_augmentation=augmentation, seed=seed)


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert type(batch[name]) is type(other[name])
        np.testing.assert_array_equal(batch[name], other[name])


def test_batch_of_rows(source):
    batch = make(source, augmentation=None).__getitems__([3, 0, 3])
    assert batch.keys() == {"pixel_values", "labels"}
    assert batch["pixel_values"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["pixel_values"].permute(0, 2, 3, 1), NOISE[[3, 0, 3]])
    assert (batch["labels"].dtype, batch["labels"].tolist()) == (torch.int64, [1, 0, 1])


def test_batch_of_draws(source):
    dataset = make(source)
    batch = dataset.__getitems__([SampledRow(3, 40, 8), SampledRow(0, 41, 3)])
    assert list(batch) == [
        *("pixel_values", "labels", "augmentation_seeds"),
        *("partner_pixel_values", "partner_labels", "partner_augmentation_seeds"),
    ]
    np.testing.assert_array_equal(batch["pixel_values"].permute(0, 2, 3, 1), NOISE[[3, 0]])
    np.testing.assert_array_equal(batch["partner_pixel_values"].permute(0, 2, 3, 1), NOISE[[8, 3]])
    assert (batch["labels"].tolist(), batch["partner_labels"].tolist()) == ([1, 0], [0, 1])
    alone = dataset.__getitems__([SampledRow(3, 40, None), SampledRow(0, 41, None)])
    assert_same(alone, {name: batch[name] for name in list(batch)[:3]})


@pytest.mark.parametrize("augmentation", [None, "crop"])
@pytest.mark.parametrize(
    "indices", [[5, 2], [SampledRow(5, 7, None), SampledRow(2, 8, None)], [SampledRow(5, 7, 1), SampledRow(2, 8, 2)]]
)
def test_item_is_one_of_a_batch(source, augmentation, indices):
    dataset = make(source, augmentation)
    batch = dataset.__getitems__(indices)
    for place, index in enumerate(indices):
        item = dataset[index]
        assert item.keys() == batch.keys()
        for name, value in item.items():
            assert isinstance(value, torch.Tensor if name.endswith("pixel_values") else int)
            np.testing.assert_array_equal(value, batch[name][place])


def test_items_are_those_of_the_dataset_that_decodes_each_time(source):
    plain = ImageDataset(source, PIXELS)
    dataset = make(source, augmentation=None)
    assert isinstance(dataset, ImageDataset)
    assert (len(dataset), dataset.class_names, dataset.labels.tolist()) == (12, ["cat", "dog"], [0, 1] * 6)
    for index in (4, SampledRow(4, 0, 7)):
        assert_same(dataset[index], plain[index])
    assert len(list(dataset)) == 12


def test_images_with_augmentation_are_decoded_for_it():
    config = {**CONFIG, "crop_pct": 0.5}
    source = images_of(NOISE[0].repeat(3, 0).repeat(3, 1))
    plain, augmented = make(source, None, config=config), make(source, "crop", config=config)
    assert plain.images.shape == augmented.images.shape == (1, 3, 16, 16)
    assert not torch.equal(plain.images, augmented.images)
    assert torch.equal(augmented.images[0], BatchAugmentation(config, "crop").pixels(source[0]["image"]))


def seeds_of(dataset, epoch, indices, name="augmentation_seeds"):
    dataset.set_epoch(epoch)
    return dataset.__getitems__(indices)[name]


def test_seeds_repeat_and_depend_on_no_other_image(source):
    rows = list(range(12))
    seeds = seeds_of(make(source), 5, rows)
    dataset = make(source)
    seeds_of(dataset, 4, rows)
    assert seeds.tolist() == [seeds_of(dataset, 5, [row]).item() for row in rows]
    assert seeds.dtype == np.int64
    assert seeds_of(dataset, 5, rows[::-1]).tolist() == seeds.tolist()[::-1]


def test_no_two_views_share_their_seed(source):
    rows, seen = list(range(12)), []
    draws = [SampledRow(3, position, 3) for position in rows]
    for seed in range(3):
        dataset = make(source, seed=seed)
        for epoch in range(4):
            seen += [seeds_of(dataset, epoch, rows), seeds_of(dataset, epoch, draws)]
            seen.append(seeds_of(dataset, epoch, draws, "partner_augmentation_seeds"))
    seen = np.concatenate(seen)
    assert len(np.unique(seen)) == len(seen) == 3 * 4 * 36


def test_epoch_is_zero_at_first(source):
    dataset = make(source)
    first = dataset.__getitems__([1])["augmentation_seeds"]
    np.testing.assert_array_equal(first, seeds_of(dataset, 0, [1]))


def test_seeds_stay_in_the_memory_of_the_host(source):
    batch = send_to_device(make(source).__getitems__([0, 1]), torch.device("meta"))
    assert batch["pixel_values"].device.type == batch["labels"].device.type == "meta"
    assert isinstance(batch["augmentation_seeds"], np.ndarray)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_passes_batches_on(source, workers):
    dataset = make(source)
    draws = [SampledRow(row % 5, row, 11 - row) for row in range(12)]
    loader = DataLoader(
        dataset,
        sampler=draws,
        batch_size=4,
        collate_fn=collate_images,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert_same(batch, dataset.__getitems__(draws[4 * place : 4 * place + 4]))


def test_batch_can_be_augmented(source):
    dataset = make(source, "cifar_autoaugment")
    batch = dataset.__getitems__([SampledRow(3, position, None) for position in range(20)])
    views = dataset.batch_augmentation(batch["pixel_values"], batch["augmentation_seeds"])
    assert (views.shape, views.dtype) == ((20, 3, 16, 16), torch.float32)
    assert len(views.flatten(1).unique(dim=0)) == 20


def test_hold_out_splits_as_the_dataset_that_decodes_each_time(source):
    dataset = make(source, seed=9)
    dataset.set_epoch(3)
    parts, others = dataset.hold_out(0.4, seed=1), ImageDataset(source, PIXELS, seed=9).hold_out(0.4, seed=1)
    train, validation = parts
    for part, other in zip(parts, others, strict=True):
        assert isinstance(part, InMemoryImageDataset)
        assert part.labels.tolist() == other.labels.tolist()
        for row in range(len(other)):
            assert torch.equal(part[row]["pixel_values"], other[row]["pixel_values"])
            assert torch.equal(PIXELS(part.dataset[row]["image"]), other[row]["pixel_values"])
    assert validation[0].keys() == {"pixel_values", "labels"}
    train.set_epoch(2)
    dataset.set_epoch(2)
    assert train[0]["augmentation_seeds"] == dataset[0]["augmentation_seeds"]
    train.set_epoch(1)
    assert train[0]["augmentation_seeds"] != dataset[0]["augmentation_seeds"]


def test_held_out_part_is_decoded_for_evaluation():
    config = {**CONFIG, "crop_pct": 0.5}
    source = images_of(*NOISE.repeat(3, 1).repeat(3, 2))
    _, validation = make(source, "crop", config=config).hold_out(0.5)
    for row in range(len(validation)):
        assert torch.equal(validation.images[row], eval_pixels(config)(validation.dataset[row]["image"]))


def test_columns_by_other_names():
    features = Features({"img": Image(), "fine": Value("int64")})
    source = Dataset.from_dict({"img": list(NOISE), "fine": [4, 5] * 6}, features=features)
    dataset = InMemoryImageDataset(source, PIXELS, image_column="img", label_column="fine")
    for part in (dataset, *dataset.hold_out(0.5)):
        assert part[1]["labels"] in (4, 5)
    assert InMemoryImageDataset.fits(source, "img", CONFIG)


def test_every_image_is_decoded_once(source):
    decoded = Counter()

    def pixels(image):
        decoded[image.tobytes()] += 1
        return PIXELS(image)

    dataset = InMemoryImageDataset(source, pixels)
    for row in range(12):
        dataset[row], dataset.__getitems__([row, 0])
    assert (len(decoded), set(decoded.values())) == (12, {1})


def test_dataset_can_be_pickled(source):
    dataset = make(source)
    copied = pickle.loads(pickle.dumps(dataset))
    assert_same(copied.__getitems__([1, 2]), dataset.__getitems__([1, 2]))


def test_empty_dataset_has_no_images():
    assert len(make(images_of())) == 0


def test_unreadable_image_is_named_at_once(tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=rf"image 1 \({path}\) cannot be read: .*Replace or remove it"):
        make(images_of(NOISE[0], str(path)))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: torch.zeros(3, *image.size, dtype=torch.uint8), r"image 1 became torch.uint8 \(3, 8, 16\) and"),
        (lambda image: torch.zeros(3, 8, 8), r"image 0 became torch.float32 \(3, 8, 8\) and"),
    ],
    ids=["shape", "type"],
)
def test_images_that_are_not_alike_are_refused(transform, message):
    with pytest.raises(ValueError, match=f"all images uint8 of one shape, but {message} image 0 .*; use ImageDataset"):
        InMemoryImageDataset(images_of(NOISE[0], NOISE[1][:, :8]), transform)


def test_square_images_of_one_size_fit(source):
    assert InMemoryImageDataset.fits(source, "image", CONFIG)


@pytest.mark.parametrize("height, width", [(15, 16), (16, 15), (15, 15)])
@pytest.mark.parametrize("place", [0, 3])
def test_other_images_do_not_fit(height, width, place):
    rows = [*NOISE[:3]]
    rows.insert(place, NOISE[3, :height, :width])
    assert not InMemoryImageDataset.fits(images_of(*rows), "image", CONFIG)


def test_oblong_images_of_one_size_do_not_fit():
    assert not InMemoryImageDataset.fits(images_of(*NOISE[:, :8]), "image", CONFIG)


def test_first_image_that_differs_ends_the_search(monkeypatch):
    source = images_of(NOISE[0], NOISE[1][:8, :8], *NOISE[2:])
    sizes, header = [], encoded_images._header
    monkeypatch.setattr(encoded_images, "_header", lambda *args: sizes.append(header(*args)) or sizes[-1])
    assert not InMemoryImageDataset.fits(source, "image", CONFIG)
    assert sizes == [(16, 16), (8, 8)]


@pytest.mark.parametrize(("channels", "size"), [(3, [16, 16]), (1, [16, 16]), (3, [8, 16])])
def test_images_that_need_too_much_memory_do_not_fit(source, monkeypatch, channels, size):
    config = {**CONFIG, "input_size": [channels, *size]}
    monkeypatch.setattr(in_memory_dataset, "MOST_BYTES", 12 * channels * 256)
    assert InMemoryImageDataset.fits(source, "image", config)
    monkeypatch.setattr(in_memory_dataset, "MOST_BYTES", 12 * channels * 256 - 1)
    assert not InMemoryImageDataset.fits(source, "image", config)


def test_images_that_cannot_be_read_are_passed_over(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    PIL.Image.fromarray(NOISE[0]).save(tmp_path / "good.png")
    rows = [str(tmp_path / name) for name in ("bad.png", "good.png", "gone.png")]
    assert InMemoryImageDataset.fits(images_of(*rows, None, NOISE[1]), "image", CONFIG)
    assert not InMemoryImageDataset.fits(images_of(*rows, None, NOISE[1][:8, :8]), "image", CONFIG)
    assert not InMemoryImageDataset.fits(images_of(rows[0], None), "image", CONFIG)
