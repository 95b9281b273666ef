"""Evaluation and training transforms against hand normalisation and shifts of an image whose pixels all differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from bce3s_hf.data.transforms import AUGMENTATIONS, eval_transform, train_transform
from bce3s_hf.models.backbone import backbone_data_config, create_backbone

SIZE, PAD = 32, 4
REDS = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE)
PIXELS = np.stack([REDS % 256, REDS // 256, np.full_like(REDS, 90)], axis=2).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def config():
    return backbone_data_config(create_backbone("resnet20_cifar")[0])


@pytest.fixture(scope="module")
def grey_config():
    return backbone_data_config(create_backbone("resnet20_cifar", in_chans=1)[0])


def normalised(pixels, config):
    return torch.tensor((pixels / 255 - config["mean"]) / config["std"], dtype=torch.float32).permute(2, 0, 1)


def seeded(transform, seed, image=IMAGE):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return transform(image)


def locate(view, config):
    """(down, right, mirrored) of the window of the padded image that `view` shows, every pixel of it checked."""
    pixels = 255 * (view.permute(1, 2, 0) * torch.tensor(config["std"]) + torch.tensor(config["mean"]))
    source = (pixels[..., 0] + 256 * pixels[..., 1].round()).round().int()
    mirrored = bool(source[SIZE // 2, SIZE // 2] > source[SIZE // 2, SIZE // 2 + 1])
    if mirrored:
        view, source = view.flip(2), source.flip(1)
    row, column = divmod(source[SIZE // 2, SIZE // 2].item(), SIZE)
    top, left = row - SIZE // 2 + PAD, column - SIZE // 2 + PAD
    window = np.pad(PIXELS, ((PAD, PAD), (PAD, PAD), (0, 0)))[top : top + SIZE, left : left + SIZE]
    torch.testing.assert_close(view, normalised(window, config), atol=1e-5, rtol=0)
    return top - PAD, left - PAD, mirrored


def test_cifar_configuration_is_that_of_the_field(config):
    assert (config["input_size"], config["crop_pct"]) == ([3, 32, 32], 1.0)
    assert config["mean"] == [0.4914, 0.4822, 0.4465]


def test_evaluation_only_normalises_an_image_of_the_right_size(config):
    view = eval_transform(config)(IMAGE)
    assert view.dtype == torch.float32
    torch.testing.assert_close(view, normalised(PIXELS, config), atol=1e-5, rtol=0)


def test_evaluation_crops_the_centre_of_a_wide_image(config):
    wide = Image.fromarray(np.pad(PIXELS, ((0, 0), (8, 8), (0, 0)), constant_values=255))
    torch.testing.assert_close(eval_transform(config)(wide), normalised(PIXELS, config), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (20, 24)])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_image_comes_out_in_the_size_of_the_backbone(config, augmentation, size):
    image = Image.new("RGB", size, (200, 100, 50))
    view = seeded(train_transform(config, augmentation), 0, image)
    assert (view.shape, view.dtype) == ((3, 32, 32), torch.float32)


def test_evaluation_resizes(config):
    large = Image.fromarray(np.kron(PIXELS // 128 * 255, np.ones((4, 4, 1), dtype=np.uint8)))
    view = eval_transform(config)(large)
    expected = normalised(PIXELS // 128 * 255, config)
    assert (view - expected).abs().median() < 0.05


def test_none_is_the_evaluation_transform(config):
    views = [seeded(train_transform(config, "none"), seed) for seed in range(3)]
    assert all(torch.equal(view, eval_transform(config)(IMAGE)) for view in views)


def test_crop_shifts_by_up_to_an_eighth_and_fills_with_black(config):
    transform = train_transform(config, "crop")
    places = [locate(seeded(transform, seed), config) for seed in range(60)]
    for axis in (0, 1):
        shifts = {place[axis] for place in places}
        assert (min(shifts), max(shifts)) == (-PAD, PAD)
        assert len(shifts) == 2 * PAD + 1
    assert not any(mirrored for _, _, mirrored in places)


def test_crop_flip_shifts_and_mirrors_half(config):
    transform = train_transform(config, "crop_flip")
    places = [locate(seeded(transform, seed), config) for seed in range(100)]
    assert 35 <= sum(mirrored for _, _, mirrored in places) <= 65
    assert len({place[:2] for place in places}) > 40


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_shape_of_things_is_kept(config, augmentation, size):
    squares = Image.fromarray((np.indices(size).sum(0) % 2 * 255).astype(np.uint8))
    view = seeded(train_transform(config, augmentation), 0, squares)[0, 8:24, 8:24]
    torch.testing.assert_close(view.diff(dim=0).abs(), torch.full((15, 16), 1 / config["std"][0]))
    torch.testing.assert_close(view.diff(dim=1).abs(), torch.full((16, 15), 1 / config["std"][0]))


def test_random_resized_crop_changes_place_scale_and_colour(config):
    transform = train_transform(config, "random_resized_crop")
    views = torch.stack([seeded(transform, seed) for seed in range(20)])
    assert len(views.flatten(1).unique(dim=0)) == 20
    plain = Image.new("RGB", (64, 64), (200, 100, 50))
    brightness = torch.stack([seeded(transform, seed, plain).mean() for seed in range(20)])
    assert brightness.std() > 0.05


def test_random_resized_crop_mirrors_half(config):
    ramp = Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    transform = train_transform(config, "random_resized_crop")
    views = [seeded(transform, seed, ramp) for seed in range(100)]
    mirrored = sum(bool(view[..., :8].mean() > view[..., -8:].mean()) for view in views)
    assert 35 <= mirrored <= 65


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:])
def test_every_augmentation_differs_from_every_other(config, augmentation):
    views = [seeded(train_transform(config, name), 1) for name in AUGMENTATIONS if name != augmentation]
    assert not any(torch.equal(seeded(train_transform(config, augmentation), 1), view) for view in views)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_grey_backbone_gets_one_channel(grey_config, augmentation, mode):
    view = seeded(train_transform(grey_config, augmentation), 0, IMAGE.convert(mode))
    assert view.shape == (1, 32, 32)


def test_grey_normalisation(grey_config):
    view = eval_transform(grey_config)(Image.new("L", (32, 32), 100))
    mean, std = sum((0.4914, 0.4822, 0.4465)) / 3, sum((0.2023, 0.1994, 0.2010)) / 3
    torch.testing.assert_close(view, torch.full((1, 32, 32), (100 / 255 - mean) / std))


@pytest.mark.parametrize("augmentation", ["flip", "", "Crop", None])
def test_unknown_augmentation_is_refused(config, augmentation):
    message = rf"augmentation must be one of none, crop, crop_flip, random_resized_crop, got {augmentation!r}"
    with pytest.raises(ValueError, match=message):
        train_transform(config, augmentation)
