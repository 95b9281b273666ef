"""What is not random: evaluation transforms against timm, and normalisation by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from bce3s_hf.data.pixels import eval_pixels, eval_transform, normalize, small_pixels
from bce3s_hf.models.backbone import backbone_data_config, create_backbone

SIZE = 32
REDS = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE)
PIXELS = np.stack([REDS % 256, REDS // 256, np.full_like(REDS, 90)], axis=2).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)
SCENE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8)).resize((96, 72))


@pytest.fixture(scope="module")
def config():
    return backbone_data_config(create_backbone("resnet20_cifar")[0])


@pytest.fixture(scope="module")
def grey_config():
    return backbone_data_config(create_backbone("resnet20_cifar", in_chans=1)[0])


def normalised(pixels, config):
    return torch.tensor((pixels / 255 - config["mean"]) / config["std"], dtype=torch.float32).permute(2, 0, 1)


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


@pytest.mark.parametrize("changes", [{}, {"crop_pct": 0.8, "interpolation": "bilinear"}, {"crop_mode": "border"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_evaluation_is_that_of_timm_to_the_bit(config, changes, mode):
    config = config | changes
    image = SCENE.convert(mode)
    expected = create_transform(**config, is_training=False)(image.convert("RGB"))
    assert torch.equal(eval_transform(config)(image), expected)
    pixels = eval_pixels(config)(image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(normalize(pixels, config), expected)


def test_normalisation_of_a_batch(config):
    images = torch.arange(2 * 3 * 256).remainder(256).to(torch.uint8).view(2, 3, 16, 16)
    before = images.clone()
    batch = normalize(images, config)
    assert batch.dtype == torch.float32
    expected = normalised(images.permute(0, 2, 3, 1).numpy()[1], config)
    torch.testing.assert_close(batch[1], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(batch[1], normalize(images[1], config))
    assert torch.equal(images, before)


@pytest.mark.parametrize(("size", "expected"), [((32, 32), (32, 32)), ((64, 128), (64, 32)), ((20, 16), (32, 40))])
def test_small_pixels_have_the_short_side_of_the_backbone(config, grey_config, size, expected):
    image = SCENE.resize(size)
    for settings, channels in ((config, 3), (grey_config, 1)):
        pixels = small_pixels(settings)(image)
        assert (pixels.shape, pixels.dtype) == ((channels, *expected), torch.uint8)


def test_evaluation_resizes(config):
    large = Image.fromarray(np.kron(PIXELS // 128 * 255, np.ones((4, 4, 1), dtype=np.uint8)))
    view = eval_transform(config)(large)
    expected = normalised(PIXELS // 128 * 255, config)
    assert (view - expected).abs().median() < 0.05


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_grey_evaluation_of_any_mode(grey_config, mode):
    assert eval_transform(grey_config)(IMAGE.convert(mode)).shape == (1, 32, 32)


def test_grey_normalisation(grey_config):
    view = eval_transform(grey_config)(Image.new("L", (32, 32), 100))
    mean, std = sum((0.4914, 0.4822, 0.4465)) / 3, sum((0.2023, 0.1994, 0.2010)) / 3
    torch.testing.assert_close(view, torch.full((1, 32, 32), (100 / 255 - mean) / std))
