"""Items, augmentation that depends on seed, epoch and row or position alone, and images that cannot be read."""

import io
import pickle
import random

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from bce3s_hf.data import ImageDataset, collate_images, eval_pixels, eval_transform, normalize, train_transform
from bce3s_hf.data.samplers import SampledRow

CONFIG = {
    "input_size": [3, 16, 16],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.5],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
TRANSFORM = eval_transform(CONFIG)
AUGMENTATION = train_transform(CONFIG, "random_resized_crop")
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
NOISE = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
ROWS = range(12)  # of `source`


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def images_of(*rows, labels=None):
    labels = [row % 2 for row in range(len(rows))] if labels is None else labels
    return Dataset.from_dict({"image": list(rows), "label": labels}, features=FEATURES)


@pytest.fixture(scope="module")
def source():
    return images_of(*[NOISE] * len(ROWS))


def make(source, seed=0, augmentation=AUGMENTATION):
    return ImageDataset(source, TRANSFORM, augmentation=augmentation, seed=seed)


def epoch_of(dataset, epoch, rows=ROWS):
    dataset.set_epoch(epoch)
    return torch.stack([dataset[row]["pixel_values"] for row in rows])


def test_item(source):
    dataset = make(source, augmentation=None)
    item = dataset[3]
    assert item.keys() == {"pixel_values", "labels"}
    assert (item["pixel_values"].dtype, item["pixel_values"].shape) == (torch.float32, (3, 16, 16))
    assert (type(item["labels"]), item["labels"]) == (int, 1)
    expected = (NOISE / 255 - CONFIG["mean"]) / CONFIG["std"]
    np.testing.assert_allclose(item["pixel_values"].permute(1, 2, 0), expected, atol=1e-5)
    assert len(dataset) == 12
    assert dataset.labels.tolist() == [0, 1] * 6
    assert dataset.class_names == ["cat", "dog"]


def test_augmentation_starts_from_colours_and_evaluation_from_what_is_stored():
    source = images_of(PILImage.new("L", (5, 4), 100))
    augmented = make(source, augmentation=lambda image: image)[0]["pixel_values"]
    assert torch.equal(augmented, torch.full((3, 4, 5), 100, dtype=torch.uint8))
    stored = ImageDataset(source, lambda image: image)[0]["pixel_values"]
    assert (stored.mode, stored.size) == ("L", (5, 4))


def test_columns_by_other_names():
    features = Features({"img": Image(), "fine": Value("int64")})
    source = Dataset.from_dict({"img": [NOISE], "fine": [4]}, features=features)
    dataset = ImageDataset(source, TRANSFORM, image_column="img", label_column="fine")
    assert dataset[0]["labels"] == 4
    assert dataset.class_names is None


@pytest.mark.parametrize("argument", ["image_column", "label_column"])
def test_missing_column_is_refused(source, argument):
    with pytest.raises(
        ValueError, match=rf"{argument} 'img' is not in the dataset; its columns are \['image', 'label'"
    ):
        ImageDataset(source, TRANSFORM, **{argument: "img"})


def test_column_without_images_is_refused(source):
    with pytest.raises(ValueError, match=r"image_column 'label' holds ClassLabel.*, not images; cast the column to"):
        ImageDataset(source, TRANSFORM, image_column="label")


def test_column_that_is_not_to_be_decoded_is_decoded(source):
    encoded_column = source.cast_column("image", Image(decode=False))
    assert torch.equal(make(encoded_column)[3]["pixel_values"], make(source)[3]["pixel_values"])


def test_column_of_another_mode_is_used_in_it():
    source = images_of({"bytes": encoded(PILImage.fromarray(NOISE), "JPEG"), "path": None})
    grey = source.cast_column("image", Image(mode="L"))
    red, green, _ = make(grey, augmentation=lambda image: image)[0]["pixel_values"]
    assert torch.equal(red, green)
    assert ImageDataset(grey, lambda image: image)[0]["pixel_values"].mode == "L"


def test_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="-1"):
        ImageDataset(images_of(NOISE, NOISE, labels=[0, -1]), TRANSFORM)


def test_augmentation_repeats(source):
    one = epoch_of(make(source), 5)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    dataset = make(source)
    epoch_of(dataset, 4)
    assert torch.equal(one, epoch_of(dataset, 5))
    assert torch.equal(one.flip(0), epoch_of(dataset, 5, rows=range(11, -1, -1)))


def test_augmentation_differs_by_seed_epoch_and_row(source):
    views = torch.cat([epoch_of(make(source, seed), epoch) for seed in (0, 1) for epoch in (0, 1)])
    assert len(views.flatten(1).unique(dim=0)) == 4 * 12


def test_augmentation_starts_in_epoch_zero(source):
    assert torch.equal(make(source)[2]["pixel_values"], epoch_of(make(source), 0)[2])


def test_worker_processes_see_what_the_main_process_sees(source):
    dataset = make(source)
    alone = [epoch_of(dataset, epoch) for epoch in (0, 1)]
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), alone[epoch])
        assert torch.cat([batch["labels"] for batch in batches]).tolist() == [0, 1] * 6


@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_items_are_collated_and_batches_are_kept(source, color_jitter):
    dataset = make(source, augmentation=train_transform(CONFIG, "random_resized_crop", color_jitter=color_jitter))
    draws = [SampledRow(row, row, 11 - row) for row in range(3)]
    batch = next(iter(DataLoader(dataset, sampler=draws, batch_size=3, collate_fn=collate_images)))
    items = [dataset[draw] for draw in draws]
    assert batch.keys() == items[0].keys()
    for name in ("pixel_values", "partner_pixel_values"):
        assert torch.equal(batch[name], torch.stack([item[name] for item in items]))
        side_by_side = items[0][name].stride(0) == 1
        assert batch[name].is_contiguous(memory_format=torch.channels_last) == side_by_side
    assert (batch["labels"].tolist(), batch["partner_labels"].tolist()) == ([0, 1, 0], [1, 0, 1])
    assert (batch["pixel_values"].dtype, batch["labels"].dtype) == (torch.uint8, torch.int64)
    assert collate_images(batch) is batch


def generator_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def draw_from_all(image):
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def test_every_generator_is_seeded_and_restored(source):
    dataset = make(source, augmentation=draw_from_all)
    before = generator_states()
    draws = epoch_of(dataset, 0)
    assert generator_states() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(draws, epoch_of(dataset, 0))
    assert len(draws.flatten().unique()) == 36


def test_rows_are_seeded_as_in_earlier_versions(source):
    dataset = make(source, seed=7, augmentation=draw_from_all)
    dataset.set_epoch(3)
    first = random.Random(hash((7, 3, 5))).random()
    assert dataset[5]["pixel_values"][0].item() == pytest.approx(first, abs=1e-7)


def test_item_of_a_draw(source):
    dataset = make(source)
    item, pair = dataset[SampledRow(3, 40, None)], dataset[SampledRow(3, 40, 8)]
    assert item.keys() == {"pixel_values", "labels"}
    assert pair.keys() == {"pixel_values", "labels", "partner_pixel_values", "partner_labels"}
    assert torch.equal(item["pixel_values"], pair["pixel_values"])
    assert (type(pair["labels"]), pair["labels"]) == (int, 1)
    assert (type(pair["partner_labels"]), pair["partner_labels"]) == (int, 0)
    shapes = [(view.shape, view.dtype) for view in (pair["pixel_values"], pair["partner_pixel_values"])]
    assert shapes == [((3, 16, 16), torch.uint8)] * 2


def test_draw_shows_the_images_of_row_and_partner():
    reds = images_of(*[np.full((16, 16, 3), 20 * row, dtype=np.uint8) for row in range(6)])
    augmentation = train_transform(CONFIG, "random_resized_crop", color_jitter=0.0)
    plain = ImageDataset(reds, eval_pixels(CONFIG))
    for dataset in (make(reds, augmentation=augmentation), plain):
        item = dataset[SampledRow(1, 4, 5)]
        for row, name in ((1, "pixel_values"), (5, "partner_pixel_values")):
            assert torch.equal(item[name], torch.full((3, 16, 16), 20 * row, dtype=torch.uint8))
    item = make(reds, augmentation=None)[SampledRow(1, 4, 5)]
    for name in ("pixel_values", "partner_pixel_values"):
        assert torch.equal(item[name], normalize(plain[SampledRow(1, 4, 5)][name], CONFIG))


def test_image_drawn_twice_is_augmented_in_two_ways(source):
    dataset = make(source)
    views = torch.stack([dataset[SampledRow(3, position, None)]["pixel_values"] for position in range(20)])
    assert len(views.flatten(1).unique(dim=0)) == 20
    again = torch.stack([dataset[SampledRow(3, position, 3)]["pixel_values"] for position in range(20)])
    assert torch.equal(views, again)


def test_partner_is_augmented_in_its_own_way(source):
    dataset = make(source)
    for position in range(10):
        item = dataset[SampledRow(3, position, 3)]
        assert not torch.equal(item["pixel_values"], item["partner_pixel_values"])
        assert torch.equal(item["partner_pixel_values"], dataset[SampledRow(0, position, 3)]["partner_pixel_values"])


def test_no_two_views_share_their_random_numbers(source):
    first = []
    for seed in range(3):
        dataset = make(source, seed=seed, augmentation=draw_from_all)
        for epoch in range(4):
            dataset.set_epoch(epoch)
            for number in range(12):
                item = dataset[SampledRow(0, number, 1)]
                first += [dataset[number]["pixel_values"], item["pixel_values"], item["partner_pixel_values"]]
    draws = torch.stack(first)
    assert draws.shape == (3 * 4 * 12 * 3, 3)
    assert all(len(generator.unique()) == len(draws) for generator in draws.T)


def test_evaluation_of_a_draw_is_not_augmented(source):
    dataset = make(source, augmentation=None)
    item = dataset[SampledRow(3, 9, 4)]
    assert torch.equal(item["pixel_values"], dataset[3]["pixel_values"])
    assert torch.equal(item["partner_pixel_values"], dataset[4]["pixel_values"])


@pytest.mark.parametrize("options", [{}, {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5}], ids=str)
def test_draws_do_not_depend_on_worker_processes(source, options):
    dataset = make(source, augmentation=train_transform(CONFIG, "random_resized_crop", **options))
    draws = [SampledRow(row % 5, row, 11 - row) for row in range(12)]
    loader = DataLoader(dataset, sampler=draws, batch_size=4, num_workers=2, persistent_workers=True)
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches = list(loader)
        for name in ("pixel_values", "partner_pixel_values"):
            alone = torch.stack([dataset[draw][name] for draw in draws])
            assert torch.equal(torch.cat([batch[name] for batch in batches]), alone)
            seen.append(alone)
        assert torch.cat([batch["partner_labels"] for batch in batches]).tolist() == [1, 0] * 6
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) == 48


def test_items_and_dataset_can_be_pickled(source):
    dataset = make(source)
    item = dataset[SampledRow(3, 5, 4)]
    copies = pickle.loads(pickle.dumps(item)), pickle.loads(pickle.dumps(dataset))[SampledRow(3, 5, 4)]
    for copy in copies:
        assert copy.keys() == item.keys()
        assert torch.equal(copy["partner_pixel_values"], item["partner_pixel_values"])


def test_generators_are_restored_after_an_error(source):
    def fail(image):
        draw_from_all(image)
        raise RuntimeError("no such colour")

    before = generator_states()
    with pytest.raises(RuntimeError, match="no such colour"):
        make(source, augmentation=fail)[0]
    assert generator_states() == before


def test_evaluation_does_not_change_with_the_epoch(source):
    dataset = make(source, augmentation=None)
    assert torch.equal(epoch_of(dataset, 0), epoch_of(dataset, 1))


def test_held_out_part_is_not_augmented(source):
    train, validation = make(source).hold_out(0.5, seed=0)
    assert sorted(train.labels) == sorted(validation.labels) == [0] * 3 + [1] * 3
    plain = make(source, augmentation=None)[0]["pixel_values"]
    assert all(torch.equal(validation[row]["pixel_values"], plain) for row in range(6))
    assert not any(torch.equal(normalize(train[row]["pixel_values"], CONFIG), plain) for row in range(6))


def test_hold_out_keeps_settings_and_all_images():
    features = Features({"img": Image(), "fine": Value("int64")})
    rows = [PILImage.new("RGB", (16, 16), (20 * row, 0, 0)) for row in range(8)]
    source = Dataset.from_dict({"img": rows, "fine": [0, 1] * 4}, features=features)
    dataset = ImageDataset(
        source, TRANSFORM, augmentation=draw_from_all, image_column="img", label_column="fine", seed=9
    )
    train, validation = dataset.hold_out(0.25, seed=1)
    assert train[0]["pixel_values"].tolist() == dataset[0]["pixel_values"].tolist()
    reds = {image.getpixel((0, 0))[0] for part in (train, validation) for image in part.dataset["img"]}
    assert (len(train), len(validation), len(reds)) == (6, 2, 8)


both_ways = pytest.mark.parametrize("augmentation", [AUGMENTATION, None], ids=["augmented", "evaluated"])


@both_ways
@pytest.mark.parametrize(
    ("path", "shown"), [(None, "embedded in the dataset"), ("cats/7.png", "cats/7.png")], ids=["no path", "path"]
)
def test_unreadable_embedded_image_is_named(path, shown, augmentation):
    content = encoded(PILImage.fromarray(NOISE), "PNG")
    image = {"bytes": content[: len(content) // 2], "path": path}
    dataset = make(images_of(NOISE, image), augmentation=augmentation)
    with pytest.raises(ValueError, match=rf"image 1 \({shown}\) cannot be read: .*truncated"):
        dataset[1]


@both_ways
def test_row_without_an_image_is_refused_at_once_unless_it_is_not_chosen(augmentation):
    images = images_of(NOISE, None, NOISE, None)
    with pytest.raises(
        ValueError, match=r"'image' has 2 of 4 rows without an image, the first is row 1; .*on_bad_image skip"
    ):
        make(images, augmentation=augmentation)
    dataset = make(images.select([0, 2]), augmentation=augmentation)
    assert len([*dataset]) == len(dataset) == 2
