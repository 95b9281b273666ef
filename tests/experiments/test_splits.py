"""Own data as splits: images that are in both, and patients that stay on one side."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from bce3s_hf import ImageDataset
from bce3s_hf.data import load_images
from bce3s_hf.experiments.run import build_trainer, check_test_share, data_record, run
from bce3s_hf.experiments.second_stage import trainer_of_checkpoint
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.experiments.splits import load_splits

LABELS = ClassLabel(names=["benign", "malign"])
FEATURES = Features({"image": Image(), "label": LABELS, "patient": Value("string"), "scanner": Value("int64")})


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return [PILImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


def write(folder, split, images, patients):
    count = len(images)
    columns = {"image": images, "label": [row % 3 // 2 for row in range(count)], "patient": patients,
               "scanner": list(range(count))}  # fmt: skip
    Dataset.from_dict(columns, features=FEATURES).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """120 images of 24 patients, five each, to train on."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "scans").mkdir()
    write(tmp_path / "scans", "train", pictures(120, 0), [f"p{row % 24:02}" for row in range(120)])
    return tmp_path / "scans"


def arguments(folder, **settings):
    return DataArguments(dataset=str(folder), label_column="label", **settings)


def copies(folder, kind="BMP"):
    """A test split of which two of six images are training images, stored in another format."""
    trained = []
    for row in (70, 3):
        buffer = io.BytesIO()
        pictures(120, 0)[row].save(buffer, kind)
        trained.append({"bytes": buffer.getvalue(), "path": f"{row}.{kind.lower()}"})
    write(folder, "test", [*pictures(4, 1), *trained], ["q1", "q1", "q2", "q2", "q3", "q4"])


@pytest.mark.parametrize("held", ["validation_fraction", "held_out_per_class"])
def test_no_patient_is_in_two_of_training_validation_and_test(folder, held, monkeypatch):
    images = load_images(str(folder), label_column="label", split_group="patient", need_test=False)
    monkeypatch.setattr("bce3s_hf.experiments.splits.load_images", lambda name, **settings: images)
    settings = {"test_fraction": 0.25, "split_group": "patient"}
    hashes = set()
    for seed in range(20 if held == "validation_fraction" else 5):
        if held == "validation_fraction":
            splits = load_splits(arguments(folder, split_seed=seed, **settings))
            groups = ImageDataset(splits.train, np.asarray, split_group="split_group")
            train, validation = (part.dataset for part in groups.hold_out(0.2, seed))
            assert 0.1 <= len(validation) / len(groups) <= 0.3
        else:
            more = {"imbalance_factor": 2, "max_count": 8, "held_out_per_class": 9}
            splits = load_splits(arguments(folder, split_seed=seed, **more, **settings))
            train, validation = splits.train, splits.validation
            assert len(train) == 12 and len(validation) > 9
        parts = [set(part["split_group"][:]) for part in (train, validation, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) <= 24 and all(parts)
        assert set(splits.test["label"][:]) == set(train["label"][:]) == {0, 1}
        assert len(splits.test) == 30 == splits.test_share["images"] and splits.test_share["share"] == 0.25
        hashes.add(splits.test_share["sha256"])
    assert len(hashes) == seed + 1


def test_share_to_test_on_is_taken_class_by_class(folder):
    one, again, other = (load_splits(arguments(folder, test_fraction=0.25, split_seed=seed)) for seed in (0, 0, 1))
    assert np.bincount(one.test["label"][:]).tolist() == [20, 10] and len(one.train) == 90
    assert one.train.column_names == one.test.column_names == ["image", "label"]
    trained, tested = ({image.tobytes() for image in part["image"]} for part in (one.train, one.test))
    assert len(trained | tested) == 120
    assert one.test_share == again.test_share != other.test_share
    subset = load_splits(arguments(folder, test_fraction=0.25, imbalance_factor=4))
    assert subset.test_share == one.test_share and subset.manifest.num_rows == 90


def test_dataset_without_a_test_split_names_both_remedies(folder):
    with pytest.raises(
        ValueError, match="no test or validation split, only 'train'; give test_split, or test_fraction"
    ):
        load_splits(arguments(folder))


def test_patient_in_both_given_splits_is_refused(folder):
    write(folder, "test", pictures(3, 1), ["q1", "p07", "p07"])
    assert len(load_splits(arguments(folder)).test) == 3
    with pytest.raises(
        ValueError, match="'patient': 1 groups are in .*, with 2 of 3 test images: 'p07'; give test_fr"
    ):
        load_splits(arguments(folder, split_group="patient"))
    assert len(load_splits(arguments(folder, split_group="scanner", test_fraction=0.1)).test) == 12
    with pytest.raises(ValueError, match="split_group 'label' is the column of images, labels or groups of classes"):
        load_splits(arguments(folder, split_group="label", test_fraction=0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
        ({"test_fraction": 0.2, "test_split": "val"}, "test_fraction 0.2 tests on a share .*'val'.*; leave one out"),
        (
            {"test_fraction": 0.2, "manifest": "a/split.json"},
            "manifest .a/split.json. .* test_fraction 0.2 takes",
        ),
        (
            {"train_list": "a", "test_list": "b", "split_group": "site"},
            "split_group 'site' is of no use with train_list",
        ),
        (
            {"train_list": "a", "test_list": "b", "test_fraction": 0.1},
            "test_fraction 0.1 is of no use with train_list",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**settings)


def test_digits_have_no_groups():
    with pytest.raises(ValueError, match="split_group 'writer' is of no use with the digits"):
        load_splits(DataArguments(split_group="writer"))


def test_duplicates_are_dropped_from_the_training_or_refused(folder):
    copies(folder)
    warned = load_splits(arguments(folder))
    assert len(warned.train) == 120 and not warned.dropped
    assert warned.duplicates.pairs == ((3, 5), (70, 4)) and warned.duplicates.test_images == 2
    dropped = load_splits(arguments(folder, duplicates="drop"))
    assert len(dropped.train) == 118 and len(dropped.test) == 6 and dropped.duplicates == warned.duplicates
    kept = [image.tobytes() for row, image in enumerate(warned.train["image"]) if row not in (3, 70)]
    assert [image.tobytes() for image in dropped.train["image"]] == kept
    with pytest.raises(ValueError, match="duplicates refuse: 2 training images are equal to 2 test images: training"):
        load_splits(arguments(folder, duplicates="refuse"))
    assert load_splits(DataArguments(duplicates="refuse")).duplicates.pairs == ()  # the digits have none


def test_no_training_image_left_is_refused(folder):
    write(folder, "test", pictures(120, 0), ["q"] * 120)
    with pytest.raises(ValueError, match="all 120 training images are left out by duplicates drop and .*; give other"):
        load_splits(arguments(folder, duplicates="drop"))


def test_nothing_left_to_validate_on_is_refused(folder):
    write(folder, "train", pictures(3, 0), ["p1", "p1", "p2"])  # of the classes 0, 0, 1
    write(folder, "test", pictures(3, 1), ["q"] * 3)
    settings = {"imbalance_factor": 1, "held_out_per_class": 2}
    assert len(load_splits(arguments(folder, **settings)).validation) == 1
    with pytest.raises(ValueError, match="held_out_per_class 2: no image is left to validate on, .*validation_frac"):
        load_splits(arguments(folder, split_group="patient", **settings))


def record_of(trainer):
    return json.loads(Path(trainer.args.output_dir, "results.json").read_text())


def test_duplicates_are_said_before_training_and_recorded(folder, make_trainer, capsys):
    copies(folder)
    for mode, kept in (("warn", 120), ("drop", 118)):
        splits = load_splits(arguments(folder, duplicates=mode))
        trainer = make_trainer(splits=splits, image_size=8, max_steps=1)
        run(trainer, splits)
        said = capsys.readouterr().out
        assert said.count("2 training images are equal to 2 test images: training") == 1
        assert ("they are left out of the training" in said) == (mode == "drop")
        found = record_of(trainer)["duplicates"]
        assert found == {**splits.duplicates.record(), "dropped": mode == "drop"} and len(found["pairs"]) == 2
        assert sum(trainer.model.config.class_counts) == kept


def test_groups_are_said_and_recorded_and_a_second_stage_holds_out_the_same(folder, make_trainer, capsys):
    data_args = arguments(folder, test_fraction=0.25, split_group="patient")
    splits = load_splits(data_args)
    first = make_trainer(splits=splits, image_size=8, max_steps=1, validation_fraction=0.2)
    run(first, splits, data=data_record(data_args))
    record = record_of(first)
    assert record["split_groups"] == {
        "train": {"images": 70, "groups": 14},
        "validation": {"images": 20, "groups": 4},
        "test": {"images": 30, "groups": 6},
    }
    said = capsys.readouterr().out
    assert "in two parts: train 70 images of 14 groups, validation 20 images of 4 groups, test 30 images of" in said
    assert "30 images to test on, 25.0% of the training split" in said
    assert record["test_share"]["images"] == 30 and len(record["test_share"]["sha256"]) == 64
    changes = [
        ({}, None),
        ({"duplicates": "refuse"}, None),
        ({"duplicates": "drop"}, "duplicates drop is not that of the training, warn by .*results.json"),
        ({"split_seed": 5}, "the test_share .* is not that of the training, .*: other images"),
        ({"split_group": None}, "the test_share .* is not that of the training"),
    ]
    for change, message in changes:
        check_second_stage(first, dataclasses.replace(data_args, **change), message)
    checkpoint = first.args.output_dir
    check_test_share(checkpoint, splits, data_args)
    for change in ({"split_seed": 5}, {"split_group": None}, {"test_fraction": 0.5}):
        given = dataclasses.replace(data_args, **change)
        with pytest.raises(
            ValueError, match="so on images trained on; .*'test_fraction': 0.25, 'split_seed': 0, 'spl"
        ):
            check_test_share(checkpoint, load_splits(given), given)
        check_test_share(checkpoint, load_splits(given), dataclasses.replace(given, dataset="another"))


def check_second_stage(first, given, message):
    """Whether a second stage refuses these data settings, even if as many images of each class are trained on."""
    splits = load_splits(given)
    model = type(first.model).from_pretrained(first.args.output_dir)
    model.config.class_counts = build_trainer(model, splits, first.args, given).model.config.class_counts
    if message is not None:
        with pytest.raises(ValueError, match=message):
            trainer_of_checkpoint(model, splits, first.args, given)
        return
    held_out = trainer_of_checkpoint(model, splits, first.args, given).eval_dataset["validation"]
    assert held_out.dataset["split_group"][:] == first.eval_dataset["validation"].dataset["split_group"][:]


def test_groups_in_the_validation_alone_are_compared_too(folder, make_trainer):
    write(folder, "test", pictures(3, 1), ["q1", "q2", "q2"])
    data_args = arguments(folder)
    splits = load_splits(data_args)
    first = make_trainer(splits=splits, image_size=8, max_steps=1, validation_fraction=0.2)
    run(first, splits, data=data_record(data_args))
    given = dataclasses.replace(data_args, split_group="patient")
    check_second_stage(first, given, "split_group patient is not that of the training, None by .*results.json")
