"""Training on a folder with images that cannot be read: named, or skipped with a count; none is lost in silence."""

import json
import os
import re
import subprocess
from pathlib import Path

import datasets
import image_files
import numpy as np
import pytest
from conftest import launcher
from PIL import Image as PILImage
from transformers import TrainerCallback

from bce3s_hf.data import InMemoryImageDataset, image_sources
from bce3s_hf.experiments.run import run
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.experiments.splits import load_splits

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Pillow leaves a truncated PNG open
PER_CLASS = 6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One folder of images a class, of two sizes, so that they are decoded whenever they are asked for."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        for kind in ("cat", "dog", "owl"):
            place = tmp_path / "images" / split / kind
            place.mkdir(parents=True)
            for number in range(PER_CLASS):
                pixels = random.randint(0, 256, (16, 16 + number, 3), dtype=np.uint8)
                PILImage.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "images"


def put(folder, files, kind="dog"):
    for name, content in files.items():
        (folder / "train" / kind / name).write_bytes(content[0] if isinstance(content, tuple) else content)


def splits_of(folder, **settings):
    return load_splits(DataArguments(dataset=str(folder), **settings))


def trainer_of(make_trainer, splits, augmentation="random_resized_crop", **settings):
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "backbone": "resnet20_cifar", **settings}
    return make_trainer(splits=splits, augmentation=augmentation, **settings)


def test_every_whole_kind_of_image_is_trained_on(make_trainer, folder):
    put(folder, image_files.whole())
    splits = splits_of(folder, on_bad_image="skip")
    assert splits.skipped == () and len(splits.train) == 3 * PER_CLASS + len(image_files.whole())
    trainer = trainer_of(make_trainer, splits, pixel_range=[0, 65535])
    trainer.train()
    assert np.isfinite(trainer.state.log_history[0]["loss"])


@pytest.mark.parametrize("workers", [0, 1])
def test_spoiled_image_stops_the_training_by_name(make_trainer, folder, workers):
    put(folder, {"bad.jpg": image_files.spoiled()["truncated.jpg"]})
    trainer = trainer_of(make_trainer, splits_of(folder), dataloader_num_workers=workers)
    with pytest.raises(ValueError, match=r"image \d+ \(.*/train/dog/bad\.jpg\) cannot be read: Truncated File Read"):
        trainer.train()


def test_spoiled_images_are_skipped_counted_and_recorded(make_trainer, folder, capsys):
    put(folder, image_files.spoiled())
    splits = splits_of(folder, on_bad_image="skip")
    assert len(splits.train) == 3 * PER_CLASS
    assert {Path(image.path).name for image in splits.skipped} == image_files.spoiled().keys()
    assert not any("object at" in image.problem for image in splits.skipped)  # which differs from run to run
    trainer = trainer_of(make_trainer, splits)
    assert trainer.model.config.class_counts == [PER_CLASS] * 3
    run(trainer, splits)
    count = len(splits.skipped)
    printed = capsys.readouterr().out
    said = rf"{count} training images cannot be read and are left out:(\n  image \d+ .*/dog/.* be read: .+){{{count}}}"
    assert len(re.findall(said, printed)) == 2  # before and after
    record = json.loads(Path(trainer.args.output_dir, "results.json").read_text())["skipped_images"]
    assert [image["row"] for image in record] == [image.row for image in splits.skipped]
    assert all(image["path"].startswith(str(folder)) and image["problem"] for image in record)


TWO_PROCESSES = """
import json, sys
from accelerate import PartialState
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.experiments.splits import load_splits

state = PartialState(cpu=True)
splits = load_splits(DataArguments(dataset=sys.argv[1], on_bad_image="skip"))
found = [state.num_processes, [image.row for image in splits.skipped], splits.train["label"][:]]
found.append(splits.duplicates.record())
print(json.dumps(found), file=open(f"{sys.argv[1]}/../found-{state.process_index}.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_skip_the_same_images_as_one(folder, tmp_path):
    put(folder, image_files.spoiled())
    put(folder, {"copy.png": (folder / "test" / "owl" / "3.png").read_bytes()})
    splits = splits_of(folder, on_bad_image="skip")
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run([*launcher(2), str(script), str(folder)], env=environment, check=True)
    for process in range(2):
        found = json.loads((tmp_path / f"found-{process}.json").read_text())
        expected = [2, [image.row for image in splits.skipped], splits.train["label"][:], splits.duplicates.record()]
        assert found == expected and len(splits.duplicates.pairs) == 1


def test_skipping_leaves_the_rest_of_a_long_tail_as_it_is(folder):
    before = splits_of(folder, imbalance_factor=3)
    first = before.train.cast_column("image", datasets.Image(decode=False))[0]["image"]["path"]
    Path(first).write_bytes(b"")
    after = splits_of(folder, imbalance_factor=3, on_bad_image="skip")
    assert after.manifest == before.manifest and [image.row for image in after.skipped] == [0]
    assert after.train["label"] == before.train["label"][1:]


def rows_without_images(*gone):
    """12 rows of two classes in turn, some of them without an image."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [None if row in gone else PILImage.new("RGB", (16, 16), (row, 0, 0)) for row in range(12)]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 6}, features=features)


def splits_of_rows(monkeypatch, gone, gone_in_test=(), **settings):
    both = {"train": rows_without_images(*gone), "test": rows_without_images(*gone_in_test)}
    monkeypatch.setattr(image_sources, "load_dataset", lambda path: datasets.DatasetDict(both))
    return load_splits(DataArguments(dataset="somebody/animals", **settings))


@pytest.mark.parametrize("augmentation", ["crop", "random_resized_crop", "none"])
@pytest.mark.parametrize(("gone", "gone_in_test", "first"), [((5, 3), (), 3), ((), (1, 2), 1)])
def test_row_without_an_image_is_refused_before_training(
    make_trainer, monkeypatch, augmentation, gone, gone_in_test, first
):
    splits = splits_of_rows(monkeypatch, gone, gone_in_test)
    with pytest.raises(ValueError, match=f"has 2 of 12 rows without an image, the first is row {first}; remove such"):
        trainer_of(make_trainer, splits, augmentation)


def test_rows_without_an_image_are_skipped(make_trainer, monkeypatch):
    splits = splits_of_rows(monkeypatch, (0, 3), on_bad_image="skip")
    assert [image.row for image in splits.skipped] == [0, 3]
    assert trainer_of(make_trainer, splits).train_dataset.labels.tolist() == [1, 0, 0, 1] + [0, 1] * 3


def test_rows_without_an_image_that_are_not_chosen_do_not_matter(make_trainer, monkeypatch):
    splits = splits_of_rows(monkeypatch, (7, 11), imbalance_factor=3, held_out_per_class=2)
    assert splits.manifest.indices == [0, 1, 2, 3, 4, 6, 8, 10]  # six cats, two dogs
    reds = [image.getpixel((0, 0))[0] for image in splits.validation["image"]]
    assert reds == [5, 9]  # of the dogs 5, 7, 9 and 11
    trainer_of(make_trainer, splits, "crop")


def test_images_decoded_at_once_are_skipped_too(make_trainer, folder):
    for number in range(PER_CLASS):
        for path in folder.rglob(f"{number}.png"):
            PILImage.open(path).resize((16, 16)).save(path)
    put(folder, {"bad.png": (b"no image", "")})
    with pytest.raises(ValueError, match=r"image \d+ \(.*bad\.png\) cannot be read"):
        trainer_of(make_trainer, splits_of(folder), augmentation="crop")
    trainer = trainer_of(make_trainer, splits_of(folder, on_bad_image="skip"), augmentation="crop")
    assert isinstance(trainer.train_dataset, InMemoryImageDataset) and len(trainer.train_dataset) == 3 * PER_CLASS


def test_test_image_is_never_skipped(make_trainer, folder):
    (folder / "test" / "owl" / "bad.png").write_bytes(b"no image")
    splits = splits_of(folder, on_bad_image="skip")
    assert len(splits.test) == 3 * PER_CLASS + 1
    with pytest.raises(ValueError, match=r"image \d+ \(.*/test/owl/bad\.png\) cannot be read"):
        trainer_of(make_trainer, splits).evaluate()


def test_class_that_loses_all_images_is_warned_of(make_trainer, folder):
    for path in (folder / "train" / "dog").iterdir():
        path.write_bytes(b"")
    splits = splits_of(folder, on_bad_image="skip")
    with pytest.warns(UserWarning, match=r"1 of 3 classes have no training image and cannot be learnt: \[1\]"):
        trainer_of(make_trainer, splits, prior_bias=False)


def test_data_without_a_readable_image_is_refused(folder):
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 18 training images can be read; image 0 "):
        splits_of(folder, on_bad_image="skip")


class Remove(TrainerCallback):
    def __init__(self, path):
        self.path = path

    def on_epoch_end(self, args, state, control, **kwargs):
        os.remove(self.path)


@pytest.mark.parametrize("on_bad_image", ["raise", "skip"])
def test_file_that_vanishes_between_steps_is_named(make_trainer, folder, on_bad_image):
    trainer = trainer_of(make_trainer, splits_of(folder, on_bad_image=on_bad_image), num_train_epochs=2)
    trainer.add_callback(Remove(folder / "train" / "owl" / "3.png"))
    with pytest.raises(ValueError, match=r"image \d+ \(.*/owl/3\.png\) cannot be read: .*No such file"):
        trainer.train()


def test_training_is_not_resumed_on_fewer_images(make_trainer, folder):
    settings = {"num_train_epochs": 2, "save_strategy": "epoch"}
    trainer_of(make_trainer, splits_of(folder, on_bad_image="skip"), **settings).train()
    (folder / "train" / "owl" / "3.png").write_bytes(b"")
    trainer = trainer_of(make_trainer, splits_of(folder, on_bad_image="skip"), **settings)
    with pytest.raises(ValueError, match="was trained with other settings: .*train_dataset images 18, now 17"):
        trainer.train(resume_from_checkpoint=True)
