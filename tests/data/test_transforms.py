"""Evaluation and training transforms against hand normalisation, timm, and shifts of an image of unequal pixels.

Training transforms draw their random numbers as timm's do, so that both do the same to an image after the same seed.
"""

import pickle
import random

import numpy as np
import pytest
import torch
from bce3s_hf.data.transforms import (
    AUGMENTATIONS,
    Cutout,
    RandomResizedCrop,
    eval_pixels,
    eval_transform,
    normalize,
    small_pixels,
    train_transform,
)
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import pil_to_tensor

from bce3s_hf.models.backbone import backbone_data_config, create_backbone

SIZE, PAD = 32, 4
REDS = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE)
PIXELS = np.stack([REDS % 256, REDS // 256, np.full_like(REDS, 90)], axis=2).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)
TENSOR = pil_to_tensor(IMAGE)
PLAIN = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, SIZE, SIZE)
SCENE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8)).resize((96, 72))
RANDAUGMENT = "rand-m9-mstd0.5-inc1"
POLICIES = [RANDAUGMENT, "rand-m9", "rand-mstd1-tweights", "rand-m5-n3-t3aw", "original", "v0-mstd0.5", "3a"]


@pytest.fixture(scope="module")
def config():
    return backbone_data_config(create_backbone("resnet20_cifar")[0])


@pytest.fixture(scope="module")
def grey_config():
    return backbone_data_config(create_backbone("resnet20_cifar", in_chans=1)[0])


def normalised(pixels, config):
    return torch.tensor((pixels / 255 - config["mean"]) / config["std"], dtype=torch.float32).permute(2, 0, 1)


def seeded(transform, seed, image=TENSOR):
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


def locate(view):
    """(down, right, mirrored) of the window of the padded image that `view` shows, every pixel of it checked."""
    source = view[0].int() + 256 * view[1].int()
    mirrored = bool(source[SIZE // 2, SIZE // 2] > source[SIZE // 2, SIZE // 2 + 1])
    if mirrored:
        view, source = view.flip(2), source.flip(1)
    row, column = divmod(source[SIZE // 2, SIZE // 2].item(), SIZE)
    top, left = row - SIZE // 2 + PAD, column - SIZE // 2 + PAD
    window = np.pad(PIXELS, ((PAD, PAD), (PAD, PAD), (0, 0)))[top : top + SIZE, left : left + SIZE]
    assert torch.equal(view, torch.from_numpy(window).permute(2, 0, 1))
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
    view = seeded(train_transform(config, augmentation), 0, torch.zeros(3, *size, dtype=torch.uint8))
    dtype = torch.float32 if augmentation == "cifar_autoaugment" else torch.uint8
    assert (view.shape, view.dtype) == ((3, 32, 32), dtype)


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


def test_small_pixels_are_what_crop_starts_from(config):
    assert torch.equal(small_pixels(config)(IMAGE), TENSOR)
    pixels, wide = small_pixels(config)(SCENE), pil_to_tensor(SCENE)
    again = train_transform(config, "crop")
    for seed in range(5):
        assert torch.equal(seeded(again, seed, pixels), seeded(again, seed, wide))


def test_evaluation_resizes(config):
    large = Image.fromarray(np.kron(PIXELS // 128 * 255, np.ones((4, 4, 1), dtype=np.uint8)))
    view = eval_transform(config)(large)
    expected = normalised(PIXELS // 128 * 255, config)
    assert (view - expected).abs().median() < 0.05


def test_none_is_the_evaluation_transform(config):
    views = [seeded(train_transform(config, "none"), seed, pil_to_tensor(SCENE)) for seed in range(3)]
    assert all(torch.equal(view, eval_pixels(config)(SCENE)) for view in views)


def test_crop_shifts_by_up_to_an_eighth_and_fills_with_black(config):
    transform = train_transform(config, "crop")
    places = [locate(seeded(transform, seed)) for seed in range(60)]
    for axis in (0, 1):
        shifts = {place[axis] for place in places}
        assert (min(shifts), max(shifts)) == (-PAD, PAD)
        assert len(shifts) == 2 * PAD + 1
    assert not any(mirrored for _, _, mirrored in places)


def test_crop_flip_shifts_and_mirrors_half(config):
    transform = train_transform(config, "crop_flip")
    places = [locate(seeded(transform, seed)) for seed in range(100)]
    assert 35 <= sum(mirrored for _, _, mirrored in places) <= 65
    assert len({place[:2] for place in places}) > 40


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_shape_of_things_is_kept(config, augmentation, size):
    squares = torch.from_numpy((np.indices(size).sum(0) % 2 * 255).astype(np.uint8)).expand(3, *size)
    view = seeded(train_transform(config, augmentation), 0, squares)[0, 8:24, 8:24].int()
    assert torch.equal(view.diff(dim=0).abs(), torch.full((15, 16), 255, dtype=torch.int32))
    assert torch.equal(view.diff(dim=1).abs(), torch.full((16, 15), 255, dtype=torch.int32))


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


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:])
def test_every_augmentation_differs_from_every_other(config, augmentation):
    def view_of(name):
        view = seeded(train_transform(config, name), 1)
        return normalize(view, config) if view.dtype == torch.uint8 else view

    views = [view_of(name) for name in AUGMENTATIONS if name != augmentation]
    assert not any(torch.equal(view_of(augmentation), view) for view in views)


def squares_cut_out(count, size):
    """First and last cut row and column of `count` images, int (count, 4); each cut is checked to be a rectangle."""
    cutout = Cutout(size)
    torch.manual_seed(0)
    edges = []
    for _ in range(count):
        cut = (cutout(torch.ones(3, SIZE, SIZE)) == 0).all(0)
        rows, columns = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
        assert cut.sum() == len(rows) * len(columns)
        edges.append([rows[0], rows[-1], columns[0], columns[-1]])
    return torch.tensor(edges)


def test_cutout_centre_is_uniform_and_its_square_is_clipped():
    first, last = squares_cut_out(3200, 16).view(-1, 2, 2).unbind(2)
    centre = torch.where(first > 0, first + 8, last + 1 - 8)
    assert torch.equal(first, (centre - 8).clamp(min=0))
    assert torch.equal(last, (centre + 7).clamp(max=SIZE - 1))
    for axis in range(2):
        hits = torch.bincount(centre[:, axis], minlength=SIZE)
        assert len(hits) == SIZE
        assert (hits - 100).abs().max() < 45  # 100 expected, standard deviation 10
    assert torch.corrcoef(centre.T.float())[0, 1].abs() < 0.06
    # from 8 x 8 in a corner to 16 x 16; each side is 14 on average: (8 + ... + 15 + 17 * 16 + 15 + ... + 9) / 32
    area = (last - first + 1).prod(1)
    assert (area.min(), area.max()) == (64, 256)
    torch.testing.assert_close(area.float().mean(), torch.tensor(196.0), atol=4, rtol=0)
    assert (area == 256).float().mean() == pytest.approx((17 / 32) ** 2, abs=0.04)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_cutout_of_any_size(size):
    first, last = squares_cut_out(300, size).view(-1, 2, 2).unbind(2)
    assert (last - first + 1).max() == min(size, SIZE)
    inside = (first > 0) & (last < SIZE - 1)
    assert ((last - first + 1)[inside] == size).all()
    if size == 1:
        assert (first.min(), first.max()) == (0, SIZE - 1)


def test_cutout_leaves_its_input_and_the_other_pixels():
    image = torch.arange(1.0, 1 + 3 * 8 * 6).view(3, 8, 6)
    before = image.clone()
    cut = Cutout(3)(image)
    assert torch.equal(image, before)
    assert (cut == 0).any() and torch.equal(cut[cut != 0], image[cut != 0])


def test_cutout_without_size_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        Cutout(0)


def test_cifar_cuts_half_the_side_last_and_fills_with_the_mean(config):
    transform = train_transform(config, "cifar_autoaugment")
    views = torch.stack([seeded(transform, seed) for seed in range(300)])
    cut = (views == 0).all(1)  # the mean of no channel is a whole pixel value
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(cut.sum((1, 2)), heights * widths)
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (8, 16, 8, 16)
    kept = colours(views, config)[~cut]
    torch.testing.assert_close(kept, kept.round(), atol=1e-3, rtol=0)
    assert (kept.min().round(), kept.max().round()) == (0, 255)


def test_cifar_crops_and_mirrors(config):
    transform = train_transform(config, "cifar_autoaugment")
    padded = np.pad(PIXELS, ((PAD, PAD), (PAD, PAD), (0, 0)))
    shifts = [(down, right) for down in range(2 * PAD + 1) for right in range(2 * PAD + 1)]
    windows = [normalised(padded[down:, right:][:SIZE, :SIZE], config) for down, right in shifts]
    windows = torch.stack([*windows, *(window.flip(2) for window in windows)])
    places = []
    for seed in range(500):
        view = seeded(transform, seed)
        same = ((view - windows).abs() < 1e-5).all(1) | (view == 0).all(0)
        places += same.flatten(1).all(1).nonzero()[:, 0].tolist()  # those that AutoAugment left as they were
    assert 40 < len(places) < 250
    down, right = zip(*(shifts[place % len(shifts)] for place in places), strict=True)
    assert set(down) == set(right) == set(range(2 * PAD + 1))
    assert 0.3 < np.mean([place >= len(shifts) for place in places]) < 0.7


def test_cifar_changes_colours(config):
    transform = train_transform(config, "cifar_autoaugment")
    views = colours(torch.stack([seeded(transform, seed, PLAIN) for seed in range(300)]), config)
    means = torch.tensor(config["mean"]) * 255
    found = {tuple(row) for view in views for row in view[(view - means).abs().amax(2) > 0.1].round().int().tolist()}
    assert (200, 100, 50) in found
    assert len(found) > 60


def test_cifar_fills_exposed_pixels_with_grey(config):
    transform = train_transform(config, "cifar_autoaugment")
    views = colours(torch.stack([seeded(transform, seed, PLAIN) for seed in range(300)]), config)
    grey = ((views - 128).abs() < 0.01).all(3).sum((1, 2))
    assert (grey >= SIZE).float().mean() > 0.1


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
        {"color_jitter": 1.0},
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
    views = torch.stack([seeded(resized_crop(config, auto_augment=RANDAUGMENT), seed, PLAIN) for seed in range(200)])
    changed = (views != views[0, :, :1, :1]).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 1
    assert len(views[:, :, SIZE // 2, SIZE // 2].unique(dim=0)) > 20


def test_stronger_randaugment_changes_more(config):
    def change(policy):
        transform = resized_crop(config, auto_augment=policy)
        changes = [(seeded(transform, seed, PLAIN).float() - PLAIN).abs().mean() for seed in range(200)]
        return torch.stack(changes).mean()

    assert change("rand-m1-inc1") < change("rand-m5-inc1") < change("rand-m9-inc1")
    assert change("rand-m5-n1-inc1") < change("rand-m5-n4-inc1")


@pytest.mark.parametrize("policy", ["rand-m10-n15-p1-inc1", "v0"])
def test_full_posterize_works_with_every_pillow(config, policy):
    white = torch.full_like(PLAIN, 255)
    views = [seeded(resized_crop(config, auto_augment=policy), seed, white) for seed in range(200)]
    assert len(views) == 200


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
        views = torch.stack([seeded(transform, seed, PLAIN) for seed in range(60)])
        return views.float().mean((2, 3)).std(0).mean()

    assert spread(0.0) == 0 < spread(0.1) < spread(0.4) < spread(0.8)
    assert spread(None) == spread(0.4)


def test_colour_jitter_that_timm_would_drop_is_refused(config):
    message = f"color_jitter 0.4 is of no use with auto_augment '{RANDAUGMENT}', which replaces it; leave one out"
    with pytest.raises(ValueError, match=message):
        resized_crop(config, auto_augment=RANDAUGMENT, color_jitter=0.4)


@pytest.mark.parametrize(
    "option", [{"auto_augment": RANDAUGMENT}, {"re_prob": 0.0}, {"re_prob": 0.5}, {"color_jitter": 0.4}], ids=str
)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS[:-1])
def test_option_of_no_use_is_refused(config, augmentation, option):
    ((name, value),) = option.items()
    message = f"{name} {value!r} is of no use with augmentation '{augmentation}'; leave it out or choose .*resized"
    with pytest.raises(ValueError, match=message):
        train_transform(config, augmentation, **option)


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


@pytest.mark.parametrize("options", [{}, {"auto_augment": "rand-m10", "re_prob": 0.5}], ids=["default", "options"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_transforms_can_be_pickled(config, augmentation, options):
    options = options if augmentation == "random_resized_crop" else {}
    transform = train_transform(config, augmentation, **options)
    copy = pickle.loads(pickle.dumps(transform))
    assert all(torch.equal(seeded(transform, seed), seeded(copy, seed)) for seed in range(5))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_suits_grey(grey_config, policy):
    transform = resized_crop(grey_config, auto_augment=policy, re_prob=0.5)
    views = torch.stack([seeded(transform, seed) for seed in range(60)])
    assert views.shape == (60, 1, SIZE, SIZE)
    assert views.isfinite().all() and len(views.flatten(1).unique(dim=0)) == 60


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_grey_backbone_gets_one_channel(grey_config, augmentation):
    transform = train_transform(grey_config, augmentation)
    views = torch.stack([seeded(transform, seed) for seed in range(30)])
    assert views.shape == (30, 1, 32, 32) and views.isfinite().all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_grey_evaluation_of_any_mode(grey_config, mode):
    assert eval_transform(grey_config)(IMAGE.convert(mode)).shape == (1, 32, 32)


def test_grey_in_training_is_that_of_pil(config, grey_config):
    colourful, grey = pil_to_tensor(SCENE), pil_to_tensor(SCENE.convert("L"))
    for seed in range(5):
        expected = seeded(train_transform(config, "crop"), seed, grey.expand(3, -1, -1))[:1]
        assert torch.equal(seeded(train_transform(grey_config, "crop"), seed, grey.expand(3, -1, -1)), expected)
        view = seeded(train_transform(grey_config, "crop"), seed, colourful)
        torch.testing.assert_close(view, expected, atol=1, rtol=0)


def test_grey_random_resized_crop_is_that_of_timm(grey_config):
    settings = grey_config | {"interpolation": "random"}
    transform, reference = resized_crop(grey_config), create_transform(**settings, is_training=True)
    grey = SCENE.convert("L")
    for seed in range(20):
        view = seeded(transform, seed, pil_to_tensor(grey).expand(3, -1, -1))
        expected = seeded(reference, seed, grey)
        torch.testing.assert_close(normalize(view, grey_config), expected, atol=3.5 / 255 / 0.2, rtol=0)


def test_grey_normalisation(grey_config):
    view = eval_transform(grey_config)(Image.new("L", (32, 32), 100))
    mean, std = sum((0.4914, 0.4822, 0.4465)) / 3, sum((0.2023, 0.1994, 0.2010)) / 3
    torch.testing.assert_close(view, torch.full((1, 32, 32), (100 / 255 - mean) / std))


@pytest.mark.parametrize("augmentation", ["flip", "", "Crop", None])
def test_unknown_augmentation_is_refused(config, augmentation):
    message = rf"augmentation must be one of none, crop, .*, random_resized_crop, got {augmentation!r}"
    with pytest.raises(ValueError, match=message):
        train_transform(config, augmentation)
