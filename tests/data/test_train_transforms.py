"""Which augmentation a name gives, for one image: what comes out, and where its random numbers come from."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from bce3s_hf.data.batch_augmentation import BATCH_AUGMENTATIONS, BatchAugmentation
from bce3s_hf.data.pixels import eval_pixels, normalize, small_pixels
from bce3s_hf.data.train_transforms import AUGMENTATIONS, train_transform
from bce3s_hf.models.backbone import backbone_data_config, create_backbone

SIZE = 32
SCENE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8)).resize((96, 72))
TENSOR = pil_to_tensor(SCENE.resize((SIZE, SIZE)))
RANDAUGMENT = "rand-m9-mstd0.5-inc1"


@pytest.fixture(scope="module")
def config():
    return backbone_data_config(create_backbone("resnet20_cifar")[0])


@pytest.fixture(scope="module")
def grey_config():
    return backbone_data_config(create_backbone("resnet20_cifar", in_chans=1)[0])


def seeded(transform, seed, image=TENSOR):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return transform(image)


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (20, 24)])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_image_comes_out_in_the_size_of_the_backbone(config, augmentation, size):
    view = seeded(train_transform(config, augmentation), 0, torch.zeros(3, *size, dtype=torch.uint8))
    dtype = torch.float32 if augmentation == "cifar_autoaugment" else torch.uint8
    assert (view.shape, view.dtype) == ((3, 32, 32), dtype)


@pytest.mark.parametrize("augmentation", BATCH_AUGMENTATIONS[1:])
def test_one_image_is_a_batch_of_one_with_a_seed_of_torchs_generator(config, augmentation):
    image, batch_augmentation = pil_to_tensor(SCENE), BatchAugmentation(config, augmentation)
    transform = train_transform(config, augmentation)
    views = [seeded(transform, seed, image) for seed in range(20)]
    for seed, view in enumerate(views):
        torch.manual_seed(seed)
        seeds = torch.randint(2**63 - 1, (1,)).numpy()
        expected = batch_augmentation(small_pixels(config)(SCENE)[None], seeds)[0]
        assert torch.equal(view if view.is_floating_point() else normalize(view, config), expected)
    assert len(torch.stack(views).flatten(1).unique(dim=0)) == 20


def test_none_is_the_evaluation_transform(config):
    views = [seeded(train_transform(config, "none"), seed, pil_to_tensor(SCENE)) for seed in range(3)]
    assert all(torch.equal(view, eval_pixels(config)(SCENE)) for view in views)


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_shape_of_things_is_kept(config, augmentation, size):
    squares = torch.from_numpy((np.indices(size).sum(0) % 2 * 255).astype(np.uint8)).expand(3, *size)
    view = seeded(train_transform(config, augmentation), 0, squares)[0, 8:24, 8:24].int()
    assert torch.equal(view.diff(dim=0).abs(), torch.full((15, 16), 255, dtype=torch.int32))
    assert torch.equal(view.diff(dim=1).abs(), torch.full((16, 15), 255, dtype=torch.int32))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:])
def test_every_augmentation_differs_from_every_other(config, augmentation):
    def views_of(name):
        views = torch.stack([seeded(train_transform(config, name), seed) for seed in range(8)])
        return normalize(views, config) if views.dtype == torch.uint8 else views

    others = [views_of(name) for name in AUGMENTATIONS if name != augmentation]
    assert not any(torch.equal(views_of(augmentation), views) for views in others)


@pytest.mark.parametrize(
    "option", [{"auto_augment": RANDAUGMENT}, {"re_prob": 0.0}, {"re_prob": 0.5}, {"color_jitter": 0.4}], ids=str
)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS[:-1])
def test_option_of_no_use_is_refused(config, augmentation, option):
    ((name, value),) = option.items()
    message = f"{name} {value!r} is of no use with augmentation '{augmentation}'; leave it out or choose .*resized"
    with pytest.raises(ValueError, match=message):
        train_transform(config, augmentation, **option)


@pytest.mark.parametrize("options", [{}, {"auto_augment": "rand-m10", "re_prob": 0.5}], ids=["default", "options"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_transforms_can_be_pickled(config, augmentation, options):
    options = options if augmentation == "random_resized_crop" else {}
    transform = train_transform(config, augmentation, **options)
    copy = pickle.loads(pickle.dumps(transform))
    assert all(torch.equal(seeded(transform, seed), seeded(copy, seed)) for seed in range(5))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_grey_backbone_gets_one_channel(grey_config, augmentation):
    transform = train_transform(grey_config, augmentation)
    views = torch.stack([seeded(transform, seed) for seed in range(30)])
    assert views.shape == (30, 1, 32, 32) and views.isfinite().all()


def test_grey_in_training_is_that_of_pil(config, grey_config):
    colourful, grey = pil_to_tensor(SCENE), pil_to_tensor(SCENE.convert("L"))
    for seed in range(5):
        expected = seeded(train_transform(config, "crop"), seed, grey.expand(3, -1, -1))[:1]
        assert torch.equal(seeded(train_transform(grey_config, "crop"), seed, grey.expand(3, -1, -1)), expected)
        view = seeded(train_transform(grey_config, "crop"), seed, colourful)
        torch.testing.assert_close(view, expected, atol=1, rtol=0)


@pytest.mark.parametrize("augmentation", ["flip", "", "Crop", None])
def test_unknown_augmentation_is_refused(config, augmentation):
    message = rf"augmentation must be one of none, crop, .*, random_resized_crop, got {augmentation!r}"
    with pytest.raises(ValueError, match=message):
        train_transform(config, augmentation)
