"""The random resized crop with its options against timm's: drawn as there, so both do the same after the same seed."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import pil_to_tensor

from bce3s_hf.data.pixels import normalize
from bce3s_hf.data.random_resized_crop import RandomResizedCrop
from bce3s_hf.data.train_transforms import train_transform
from bce3s_hf.models.backbone import backbone_data_config, create_backbone

SIZE = 32
PLAIN = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, SIZE, SIZE)
NOISE = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SCENE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8)).resize((96, 72))
RANDAUGMENT = "rand-m9-mstd0.5-inc1"
POLICIES = [RANDAUGMENT, "rand-m9", "rand-mstd1-tweights", "rand-m5-n3-t3aw", "original", "v0-mstd0.5", "3a"]


@pytest.fixture(scope="module")
def config():
    return backbone_data_config(create_backbone("resnet20_cifar")[0])


@pytest.fixture(scope="module")
def grey_config():
    return backbone_data_config(create_backbone("resnet20_cifar", in_chans=1)[0])


def seeded(transform, seed, image=NOISE):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return transform(image)


def resized_crop(config, **options):
    return train_transform(config, "random_resized_crop", **options)


def colours(views, config):
    """Pixels as colours from 0 to 255, float (views, H, W, 3)."""
    if views.dtype == torch.uint8:
        return views.permute(0, 2, 3, 1).float()
    return 255 * (views.permute(0, 2, 3, 1) * torch.tensor(config["std"]) + torch.tensor(config["mean"]))


def test_random_resized_crop_changes_place_scale_and_colour(config):
    transform = train_transform(config, "random_resized_crop")
    views = torch.stack([seeded(transform, seed) for seed in range(20)])
    assert len(views.flatten(1).unique(dim=0)) == 20
    brightness = torch.stack([seeded(transform, seed, PLAIN).float().mean() for seed in range(20)])
    assert brightness.std() > 3


def test_random_resized_crop_mirrors_half(config):
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 64, 64)
    transform = train_transform(config, "random_resized_crop")
    views = [seeded(transform, seed, ramp).float() for seed in range(100)]
    mirrored = sum(bool(view[..., :8].mean() > view[..., -8:].mean()) for view in views)
    assert 35 <= mirrored <= 65


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"auto_augment": "rand-m9-inc1"},
        {"auto_augment": "original"},
        {"auto_augment": "3a", "color_jitter": 0.2},
        {"re_prob": 0.5},
        {"color_jitter": 0.1},
        {"color_jitter": 0.0},
        {"color_jitter": 0.4},
        {"auto_augment": "rand-m9-inc1", "re_prob": 0.25, "color_jitter": 0.0},
    ],
)
def test_random_resized_crop_is_that_of_timms_training_script(config, options):
    settings = config | {"interpolation": "random"}
    transform, reference = resized_crop(config, **options), create_transform(**settings, is_training=True, **options)
    image = pil_to_tensor(SCENE)
    for seed in range(40):
        view, expected = seeded(transform, seed, image), seeded(reference, seed, SCENE)
        assert view.dtype == (torch.float32 if options.get("re_prob") else torch.uint8)
        if options.get("re_prob"):
            assert torch.equal((view == 0).all(0), (expected == 0).all(0))
        change = (colours(view[None], config) - colours(expected[None], config)).abs()
        assert change.mean() < 1
        assert (change > 4.5).float().mean() < 0.01  # a policy compares pixels with a threshold, or spreads colours


@pytest.mark.parametrize("shape", [(3, 72, 96), (3, 30, 400), (3, 400, 30)])
def test_boxes_and_interpolations_are_those_of_timms_training_script(config, shape):
    crop = resized_crop(config, color_jitter=0.0).transforms[0]
    reference = create_transform(**config | {"interpolation": "random"}, is_training=True).transforms[0]
    assert type(crop) is RandomResizedCrop
    assert (crop.size, crop.scale, crop.ratio) == (reference.size, reference.scale, reference.ratio)
    assert crop.interpolation == reference.interpolation
    across = torch.arange(shape[2]).expand(shape[1:]) * 255 / (shape[2] - 1)
    down = torch.arange(shape[1])[:, None].expand(shape[1:]) * 255 / (shape[1] - 1)
    image = torch.stack([across, down, down]).round().to(torch.uint8)
    for seed in range(30):
        view = seeded(crop, seed, image)
        expected = pil_to_tensor(seeded(reference, seed, Image.fromarray(image.permute(1, 2, 0).numpy())))
        torch.testing.assert_close(view, expected, atol=2, rtol=0)


def test_crops_are_of_the_stated_areas_and_ratios(config):
    height, width = 240, 200
    across = torch.arange(width).expand(height, width)
    down = torch.arange(height)[:, None].expand(height, width)
    image = torch.stack([across, down, down]).to(torch.uint8)
    crop = resized_crop(config).transforms[0]
    sides = []
    for seed in range(400):
        view = seeded(crop, seed, image).float()
        # the middles of these pixels are 24 of 32 apart
        sides.append(
            [(view[0, 16, 28] - view[0, 16, 4]).item() / 24 * 32, (view[1, 28, 16] - view[1, 4, 16]).item() / 24 * 32]
        )
    areas, ratios = np.prod(sides, 1) / (height * width), np.log(np.divide(*np.transpose(sides)))

    rng = np.random.RandomState(0)
    area, log_ratio = rng.uniform(0.08, 1, 20_000), rng.uniform(-np.log(4 / 3), np.log(4 / 3), 20_000)
    sides = np.sqrt(area * height * width * np.exp([log_ratio, -log_ratio]))
    fits = (sides[0] <= width) & (sides[1] <= height)
    quantiles = [0.02, 0.25, 0.5, 0.75, 0.98]
    np.testing.assert_allclose(np.quantile(areas, quantiles), np.quantile(area[fits], quantiles), atol=0.06)
    np.testing.assert_allclose(np.quantile(ratios, quantiles), np.quantile(log_ratio[fits], quantiles), atol=0.06)


@pytest.mark.parametrize(
    ("interpolation", "method"),
    [(InterpolationMode.BILINEAR, Image.BILINEAR), (InterpolationMode.BICUBIC, Image.BICUBIC)],
)
def test_resized_pixels_are_nearly_those_of_pil(interpolation, method):
    crop = RandomResizedCrop((32, 32))
    crop.interpolation = [interpolation]
    for seed in range(20):
        random.seed(seed)
        top, left, height, width = crop.get_params(SCENE, crop.scale, crop.ratio)
        expected = SCENE.crop((left, top, left + width, top + height)).resize((32, 32), method)
        view = seeded(crop, seed, pil_to_tensor(SCENE))
        torch.testing.assert_close(view, pil_to_tensor(expected), atol=1, rtol=0)


def test_randaugment_changes_a_plain_image_that_cropping_leaves(config):
    views = torch.stack([seeded(resized_crop(config, color_jitter=0.0), seed, PLAIN) for seed in range(20)])
    assert torch.equal(views[0].expand_as(views), views)
    views = torch.stack([seeded(resized_crop(config, auto_augment=RANDAUGMENT), seed, PLAIN) for seed in range(60)])
    changed = (views != views[0, :, :1, :1]).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 1
    assert len(views[:, :, SIZE // 2, SIZE // 2].unique(dim=0)) > 10


def test_stronger_randaugment_changes_more(config):
    def change(policy):
        transform = resized_crop(config, auto_augment=policy)
        changes = [(seeded(transform, seed, PLAIN).float() - PLAIN).abs().mean() for seed in range(60)]
        return torch.stack(changes).mean()

    assert change("rand-m1-inc1") < change("rand-m5-inc1") < change("rand-m9-inc1")
    assert change("rand-m5-n1-inc1") < change("rand-m5-n4-inc1")


@pytest.mark.parametrize("policy", ["rand-m10-n15-p1-inc1", "v0"])
def test_full_posterize_works_with_every_pillow(config, policy):
    white = torch.full_like(PLAIN, 255)
    views = [seeded(resized_crop(config, auto_augment=policy), seed, white) for seed in range(100)]
    assert len(views) == 100


@pytest.mark.parametrize(
    ("probability", "least", "most"), [(0.0, 0, 0), (0.25, 30, 70), (0.75, 130, 170), (1, 200, 200)]
)
def test_random_erasing_sets_a_rectangle_to_the_mean(config, probability, least, most):
    transform = resized_crop(config, re_prob=probability, color_jitter=0.0)
    cut = (torch.stack([seeded(transform, seed, PLAIN) for seed in range(200)]) == 0).all(1)
    area = cut.sum((1, 2))
    assert torch.equal(area, cut.any(2).sum(1) * cut.any(1).sum(1))
    assert least <= (area > 0).sum() <= most
    share = area[area > 0] / SIZE**2
    assert not len(share) or (share.min() > 0.015 and share.max() < 0.36)


def test_colour_jitter_grows(config):
    def spread(strength):
        transform = resized_crop(config, color_jitter=strength)
        views = torch.stack([seeded(transform, seed, PLAIN) for seed in range(30)])
        return views.float().mean((2, 3)).std(0).mean()

    assert spread(0.0) == 0 < spread(0.1) < spread(0.4) < spread(0.8)
    assert spread(None) == spread(0.4)


def test_colour_jitter_that_timm_would_drop_is_refused(config):
    message = f"color_jitter 0.4 is of no use with auto_augment '{RANDAUGMENT}', which replaces it; leave one out"
    with pytest.raises(ValueError, match=message):
        resized_crop(config, auto_augment=RANDAUGMENT, color_jitter=0.4)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "RA",
        "rand9",
        "rand-9",
        "rand-m",
        "rand-m9-inc",
        "rand-m9.5",
        "rand-m9-q1",
        "rand-tnone",
        "original-m3",
        "-m9",
    ],
)
def test_unknown_policy_is_refused(config, policy):
    with pytest.raises(ValueError, match=f"auto_augment must be a policy .*'rand-m9-mstd0.5-inc1'.*, got {policy!r}"):
        resized_crop(config, auto_augment=policy)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_erasing_probability_is_checked(config, value):
    with pytest.raises(ValueError, match=rf"re_prob must be in \[0, 1\], got {value}"):
        resized_crop(config, re_prob=value)


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_strength_of_colour_jitter_is_checked(config, value):
    with pytest.raises(ValueError, match=f"color_jitter must be at least 0 and finite, got {value}"):
        resized_crop(config, color_jitter=value)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_suits_grey(grey_config, policy):
    transform = resized_crop(grey_config, auto_augment=policy, re_prob=0.5)
    views = torch.stack([seeded(transform, seed) for seed in range(60)])
    assert views.shape == (60, 1, SIZE, SIZE)
    assert views.isfinite().all() and len(views.flatten(1).unique(dim=0)) == 60


def test_grey_random_resized_crop_is_that_of_timm(grey_config):
    settings = grey_config | {"interpolation": "random"}
    transform, reference = resized_crop(grey_config), create_transform(**settings, is_training=True)
    grey = SCENE.convert("L")
    for seed in range(20):
        view = seeded(transform, seed, pil_to_tensor(grey).expand(3, -1, -1))
        expected = seeded(reference, seed, grey)
        torch.testing.assert_close(normalize(view, grey_config), expected, atol=3.5 / 255 / 0.2, rtol=0)
