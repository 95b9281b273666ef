"""Batches against torchvision, image by image: the same images for the same choices, and how choices are drawn."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bce3s_hf.data.batch_augmentation import BATCH_AUGMENTATIONS, BatchAugmentation
from bce3s_hf.data.batch_autoaugment import BatchAutoAugment
from bce3s_hf.data.pixels import eval_transform, normalize

SIZE, PAD = 32, 4
CONFIG = {
    "input_size": [3, SIZE, SIZE],
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.247, 0.2435, 0.2616],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
SEEDS = np.arange(64)
NOISE = torch.randint(0, 256, (64, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PLACES = torch.arange(SIZE * SIZE).view(SIZE, SIZE)
WHERE = torch.stack([PLACES % 256, PLACES // 256, torch.full_like(PLACES, 90)]).byte()  # tells every pixel's place


def config_of(channels, height, width):
    moments = {"mean": CONFIG["mean"][:channels], "std": CONFIG["std"][:channels]}
    return {**CONFIG, "input_size": [channels, height, width], **moments}


def augment(augmentation, images=NOISE, seeds=SEEDS, config=CONFIG):
    return BatchAugmentation(config, augmentation)(images, seeds)


def same_image(image, count, augmentation):
    """`count` views of one image, seeds from 0."""
    return augment(augmentation, image.expand(count, -1, -1, -1), np.arange(count))


def colours(views):
    """Pixels from 0 to 255 of normalised views."""
    mean, std = (torch.tensor(CONFIG[name]).view(3, 1, 1) for name in ("mean", "std"))
    return 255 * (views * std + mean)


def slow_augmentation(images, choices, config, augmentation):
    """One image after the other, by torchvision's functions."""
    height, width = config["input_size"][1:]
    autoaugment = BatchAutoAugment(height, width)
    views = []
    for place, image in enumerate(images):
        padded = functional.pad(image, [height // 8] * 4)
        view = functional.crop(padded, int(choices.top[place]), int(choices.left[place]), height, width)
        view = functional.horizontal_flip(view) if choices.mirrored[place] else view
        if augmentation == "cifar_autoaugment":
            view = view[None].clone()
            alone = type(choices.sub_policies)(*(field[[place]] for field in choices.sub_policies))
            for group in autoaugment.groups(alone):
                autoaugment.apply(view, group.kernel, torch.from_numpy(group.rows), torch.from_numpy(group.entries))
            view = view[0]
        view = normalize(view, config)
        if augmentation == "cifar_autoaugment":
            side = min(height, width) // 2
            top, left = int(choices.cut_row[place]) - side // 2, int(choices.cut_column[place]) - side // 2
            view[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
        views.append(view)
    return torch.stack(views)


@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS[1:])
@pytest.mark.parametrize(
    ("size", "source"),
    [((3, 32, 32), (32, 32)), ((1, 28, 28), (28, 28)), ((3, 24, 40), (40, 40)), ((3, 17, 17), (17, 51))],
    ids=str,
)
def test_choices_lead_to_the_images_that_torchvision_makes(augmentation, size, source):
    config = config_of(*size)
    images = torch.randint(0, 256, (64, size[0], *source), dtype=torch.uint8)
    batch = BatchAugmentation(config, augmentation)
    choices = batch.draw(SEEDS, source)
    assert choices.top.max() > source[0] - size[1] + size[1] // 8  # the window leaves the image
    views = batch(images, SEEDS)
    assert torch.equal(views, slow_augmentation(images, choices, config, augmentation))
    assert (views.shape, views.dtype, views.is_contiguous()) == ((64, *size), torch.float32, True)


def test_none_only_normalises():
    transform = eval_transform(CONFIG)
    expected = [transform(PILImage.fromarray(image.permute(1, 2, 0).numpy())) for image in NOISE]
    assert torch.equal(augment("none"), torch.stack(expected))


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip", "cifar_autoaugment"])
def test_pixels_are_what_the_augmentation_starts_from(augmentation):
    config = {**CONFIG, "crop_pct": 0.5}
    image = PILImage.fromarray(np.random.RandomState(0).randint(0, 256, (48, 48, 3), dtype=np.uint8))
    batch = BatchAugmentation(config, augmentation)
    pixels = batch.pixels(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, SIZE, SIZE))
    resized = functional.resize(functional.pil_to_tensor(image), [SIZE], v2.InterpolationMode.BICUBIC)
    assert torch.equal(pixels, resized) == (augmentation != "none")
    if augmentation == "none":
        assert torch.equal(batch(pixels[None], SEEDS[:1])[0], eval_transform(config)(image))


@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS)
def test_view_depends_on_image_and_seed_alone(augmentation):
    views, before = augment(augmentation), NOISE.clone()
    order = torch.randperm(64)
    assert torch.equal(augment(augmentation, NOISE[order], SEEDS[order]), views[order])
    assert torch.equal(augment(augmentation, NOISE[7:8], SEEDS[7:8]), views[7:8])
    assert torch.equal(NOISE, before)
    others = augment(augmentation, seeds=SEEDS + 64)
    assert torch.equal(others, views) == (augmentation == "none")


def test_augmentations_differ():
    views = [augment(name) for name in BATCH_AUGMENTATIONS]
    assert not any(torch.equal(one, other) for place, one in enumerate(views) for other in views[:place])


def locate(views):
    """Window and mirroring of views of `WHERE`, int (B, 3); every pixel is checked."""
    pixels = colours(views).round().long()
    source = pixels[:, 0] + 256 * pixels[:, 1]
    middle = SIZE // 2
    mirrored = source[:, middle, middle] > source[:, middle, middle + 1]
    pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    source = torch.where(mirrored.view(-1, 1, 1), source.flip(2), source)
    row, column = source[:, middle, middle] // SIZE, source[:, middle, middle] % SIZE
    places = torch.stack([row - middle + PAD, column - middle + PAD, mirrored.long()], 1)
    windows = functional.pad(WHERE, [PAD] * 4).unfold(1, SIZE, 1).unfold(2, SIZE, 1)
    assert torch.equal(pixels.byte(), windows[:, places[:, 0], places[:, 1]].transpose(0, 1))
    return places


def close_to_uniform(hits):
    expected = hits.sum() / hits.size
    assert expected >= 10
    return ((hits - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, hits.size - 1)


def test_windows_and_mirroring_are_uniform():
    hits = np.zeros((9, 9, 2))
    np.add.at(hits, tuple(locate(same_image(WHERE, 3240, "crop_flip")).T.numpy()), 1)
    assert close_to_uniform(hits)


def test_crop_never_mirrors_and_its_windows_are_uniform():
    places = locate(same_image(WHERE, 2000, "crop")).numpy()
    assert not places[:, 2].any()
    assert close_to_uniform(np.bincount(9 * places[:, 0] + places[:, 1], minlength=81))


def test_centres_of_squares_are_uniform():
    choices = BatchAugmentation(CONFIG, "cifar_autoaugment").draw(np.arange(20_000), (SIZE, SIZE))
    hits = np.zeros((SIZE, SIZE))
    np.add.at(hits, (choices.cut_row, choices.cut_column), 1)
    assert close_to_uniform(hits)


def test_squares_of_half_the_side_are_clipped_and_filled_with_the_mean():
    views = same_image(torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8), 300, "cifar_autoaugment")
    cut = (views == 0).all(1)  # the mean of no channel is a whole pixel value
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(cut.sum((1, 2)), heights * widths)
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (8, 16, 8, 16)


@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS)
def test_augmented_images_stay_uint8_unless_a_square_is_cut_out(augmentation):
    batch = BatchAugmentation(CONFIG, augmentation)
    views = batch.augment(NOISE, SEEDS)
    assert views.dtype == (torch.float32 if augmentation == "cifar_autoaugment" else torch.uint8)
    assert torch.equal(views if views.is_floating_point() else normalize(views, CONFIG), batch(NOISE, SEEDS))


class Operations(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS)
def test_device_is_never_waited_for(augmentation):
    views = augment(augmentation, NOISE.to("meta"))  # a device without values: nothing can be read from it
    assert (views.device.type, views.shape) == ("meta", NOISE.shape)


def test_number_of_operators_does_not_grow_with_the_batch():
    batch = BatchAugmentation(CONFIG, "cifar_autoaugment")
    counts = []
    for count in (512, 2048):
        with Operations() as operations:
            batch(NOISE[:1].expand(count, -1, -1, -1), np.arange(count))
        counts.append(len(operations.names))
    assert max(counts) < 300
    assert abs(counts[0] - counts[1]) < 5  # views where memory is laid out otherwise


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS)
def test_cuda_makes_the_same_images_without_waiting(augmentation):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batch, images = BatchAugmentation(CONFIG, augmentation), NOISE.cuda()
    batch(images, SEEDS)  # moves the tables to the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = batch(images, SEEDS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (colours(views.cpu()) - colours(batch(NOISE, SEEDS))).abs()
    assert difference.max() < 1.01 and (difference > 0.01).float().mean() < 0.01  # a level, where rounding differs


@pytest.mark.parametrize("augmentation", ["random_resized_crop", "rand"])
def test_other_augmentation_is_refused(augmentation):
    with pytest.raises(ValueError, match=f"one of none, crop, .* got '{augmentation}'; give another one to ImageData"):
        BatchAugmentation(CONFIG, augmentation)


@pytest.mark.parametrize(
    ("augmentation", "images"),
    [
        ("crop", NOISE.float()),
        ("crop", NOISE[0]),
        ("crop", NOISE[:, :1]),
        ("crop", NOISE[:, :, :31]),
        ("crop", NOISE[..., :31]),
        ("none", torch.zeros(64, 3, 33, 33, dtype=torch.uint8)),
    ],
    ids=["type", "no batch", "channels", "height", "width", "too large"],
)
def test_images_that_pixels_does_not_make_are_refused(augmentation, images):
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(B, 3, 32, 32\) .* got torch\.\w+ of shape"):
        augment(augmentation, images)


@pytest.mark.parametrize("seeds", [torch.arange(64), np.arange(64.0), np.arange(63), np.arange(64)[:, None]])
def test_seeds_that_are_no_array_of_integers_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds must be a NumPy array of 64 int64, got .*; leave them in the host's"):
        augment("crop", seeds=seeds)
