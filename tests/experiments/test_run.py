"""Settings from YAML and command line, data by manifest, and a model that its seed determines."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT
from datasets import ClassLabel, Dataset, Features
from sklearn.metrics import accuracy_score, recall_score

from bce3s_hf import BCE3SForImageClassification, BCE3STrainer, BCE3STrainingArguments, ImageDataset
from bce3s_hf.data import SplitManifest, eval_pixels, load_images, normalize
from bce3s_hf.experiments.evaluation_settings import EvaluationArguments, ThresholdArguments
from bce3s_hf.experiments.run import build_model, build_trainer, run
from bce3s_hf.experiments.second_stage import METHODS, SecondStageArguments
from bce3s_hf.experiments.settings import CheckpointArguments, DataArguments, ModelArguments, parse_arguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.training.run_records import measure, run_record

RECIPES = ROOT / "recipes"
TRAINING = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)


@pytest.fixture
def parse(tmp_path):
    """Parse the text of a YAML file, then the command line."""

    def parse(text, *overrides):
        config = tmp_path / "config.yaml"
        config.write_text(f"use_cpu: true\noutput_dir: {tmp_path / 'run'}\n{text}")
        return parse_arguments(config, list(overrides))

    return parse


def test_yaml_wins_over_defaults_and_the_command_line_over_yaml(parse):
    model, data, training = parse(
        "backbone: resnet20_cifar\nimbalance_factor: 20\nlambda_ss: 0.3\nlearning_rate: 0.2\nseed: 4",
        *"--imbalance_factor 50 --learning_rate 0.3 --image_size 16".split(),
    )
    assert (model.backbone, model.image_size, model.joint) == ("resnet20_cifar", 16, "bce")
    assert (data.imbalance_factor, data.dataset) == (50, "digits")
    assert (training.lambda_ss, training.learning_rate, training.seed) == (0.3, 0.3, 4)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Folder of digits in two classes as a camera of 12 bits saves them."""
    folder = tmp_path_factory.mktemp("scans")
    for split in ("train", "test"):
        for label in range(2):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for row in range(4):
                pixels = np.random.default_rng(row).integers(label * 1000, 3000, (12, 12), dtype=np.uint16)
                PIL.Image.fromarray(pixels).save(place / f"{row}.png")
    return folder


@pytest.mark.parametrize(
    ("text", "options"), [("", ["--pixel_range", "-8", "4095"]), ("pixel_range: [-8, 4095]", []), ("", [])]
)
def test_pixel_range_reaches_model_and_images_or_deep_images_are_refused(parse, scans, text, options):
    text += f"\ndataset: {scans}\nbackbone: test_resnet\nimage_size: 32\ncontrastive: none"
    model_args, data_args, args = parse(text, *options)
    splits = load_splits(data_args)
    model = build_model(model_args, splits, seed=0)
    if model_args.pixel_range is None:
        with pytest.raises(ValueError, match="more than 8 bits a channel, such as .*png.*--pixel_range 4 2994 of"):
            build_trainer(model, splits, args, data_args)
        return
    trainer = build_trainer(model, splits, args, data_args)
    for place in (model.config, trainer.train_dataset, trainer.eval_dataset):
        assert place.pixel_range == [-8, 4095]
    levels = trainer.eval_dataset[0]["pixel_values"]
    assert 0 <= levels.min() < 40 and 150 < levels.max() < 200  # 2,999 of 4,095


def test_another_pixel_range_than_the_model_s_is_refused(parse, scans):
    model_args, data_args, args = parse(f"dataset: {scans}\nbackbone: test_resnet\nimage_size: 32")
    splits = load_splits(data_args)
    model = build_model(model_args, splits, seed=0)
    dataset = ImageDataset(splits.train, eval_pixels(model.config.data_config), pixel_range=(0, 9))
    with pytest.raises(ValueError, match=r"train_dataset was made with pixel_range \[0, 9\], the model with None"):
        BCE3STrainer(model, args, train_dataset=dataset)


def test_later_option_wins(parse):
    assert parse("", "--seed", "1", "--seed", "2")[2].seed == 2


@pytest.mark.parametrize("options", ["--config other.yaml --seed 3", "--seed 3 --config other.yaml"])
def test_config_option_replaces_the_default_file(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default.yaml").write_text("backbone: resnet32_cifar\nlambda_ss: 0.3")
    (tmp_path / "other.yaml").write_text("backbone: resnet20_cifar\nuse_cpu: true")
    model, _, training = parse_arguments(tmp_path / "default.yaml", options.split())
    assert (model.backbone, training.lambda_ss, training.seed) == ("resnet20_cifar", 0.1, 3)


def test_command_line_of_the_process_is_the_default(tmp_path, monkeypatch):
    (tmp_path / "default.yaml").write_text("use_cpu: true")
    monkeypatch.setattr("sys.argv", ["train.py", "--seed", "7"])
    assert parse_arguments(tmp_path / "default.yaml")[2].seed == 7


@pytest.mark.parametrize("options", [["--config", "gone.yaml"], ["--config=gone.yaml"]])
def test_config_without_file_is_refused(tmp_path, options):
    (tmp_path / "default.yaml").write_text("use_cpu: true")
    with pytest.raises(ValueError, match="config 'gone.yaml' does not exist; give a YAML file such as .*default.yaml"):
        parse_arguments(tmp_path / "default.yaml", options)


def test_negative_number_in_config_is_a_value(parse):
    assert parse("seed: -0\nlogging_steps: 5\nbackbone_kwargs: '{}'\nweight_decay: 1e-3")[2].weight_decay == 1e-3
    with pytest.raises(ValueError, match="lambda_ss must be at least 0 and finite, got -0.001"):
        parse("lambda_ss: -1e-3")


def test_config_that_is_no_yaml_is_refused(parse):
    with pytest.raises(ValueError, match="is not YAML"):
        parse("a: [1")


@pytest.mark.parametrize("text", ["- 1\n- 2", "just text", "7"])
def test_config_must_hold_settings(tmp_path, text):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(ValueError, match="must hold lines `setting: value`"):
        parse_arguments(config, [])


def test_empty_config_is_fine(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("# nothing differs from the defaults\n")
    assert parse_arguments(config, ["--use_cpu"])[0] == ModelArguments()


@pytest.mark.parametrize(
    ("text", "options", "name"),
    [
        ("lambda_sss: 0.1", [], "--lambda_sss"),
        ("", ["--lambda_sss", "0.1"], "--lambda_sss"),
        ("", ["--lambda_sss=0.1"], "--lambda_sss"),
        ("", ["stray"], "stray"),
        ("", ["--imbalance", "10"], "--imbalance"),
        ("imbalance_f: 10", [], "--imbalance_f"),
        ("", ["--conf", "other.yaml"], "--conf"),
    ],
)
def test_unknown_or_abbreviated_setting_is_refused_by_name(parse, text, options, name):
    with pytest.raises(ValueError, match=f"unknown setting '{name}'; --help lists all"):
        parse(text, *options)


@pytest.mark.parametrize("value", ["", "null", "~", "[1, 2]", "{a: 1}", "\n  a: 1"])
def test_setting_that_is_no_scalar_is_refused_by_name(parse, value):
    with pytest.raises(ValueError, match=r"max_count in '.*config\.yaml' must be one number, text or true/false"):
        parse(f"max_count: {value}")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-3", "learning_rate", 0.001),
        ("weight_decay: 5E-4", "weight_decay", 0.0005),
        ("lambda_ss: 1", "lambda_ss", 1.0),
        ("bf16: false", "bf16", False),
        ("logging_nan_inf_filter: true", "logging_nan_inf_filter", True),
        ("save_strategy: 'no'", "save_strategy", "no"),
        ("run_name: 2024", "run_name", "2024"),
    ],
)
def test_yaml_value_takes_the_type_of_its_setting(parse, text, name, value):
    parsed = getattr(parse(text)[2], name)
    assert parsed == value
    if isinstance(value, float):
        assert type(parsed) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmentation: blur", "argument --augmentation: invalid choice: 'blur'"),
        ("convention: random", "argument --convention: invalid choice: 'random'"),
        ("imbalance_kind: linear", "argument --imbalance_kind/--imbalance-kind: invalid choice: 'linear'"),
        ("joint: mse", "argument --joint: invalid choice: 'mse'"),
        ("contrastive: mse", "argument --contrastive: invalid choice: 'mse'"),
        ("uniformity: mse", "argument --uniformity: invalid choice: 'mse'"),
        ("imbalance_factor: much", "invalid float value: 'much'"),
    ],
)
def test_value_that_is_no_choice_ends_with_usage(parse, capsys, text, message):
    with pytest.raises(SystemExit):
        parse(text)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("negative_ratio: 0", r"negative_ratio must be in \(0, 1\]"),
        ("lambda_cc: -1", "lambda_cc must be at least 0"),
        ("max_count: 10", "max_count 10 needs imbalance_factor"),
        ("backbone_kwargs: drop", "backbone_kwargs must be JSON, got 'drop'"),
        ("backbone_kwargs: '[1]'", r"backbone_kwargs must be a JSON object, got '\[1\]'"),
        ("backbone_kwargs: 3", "backbone_kwargs must be a JSON object, got '3'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(parse, text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def of_one_training(path):
    return not path.stem.startswith(("evaluate", "finetune", "fit"))


@pytest.mark.parametrize("recipe", sorted(filter(of_one_training, RECIPES.glob("*.yaml"))), ids=lambda path: path.stem)
def test_settings_of_the_recipe_are_known(recipe):
    _, data, stage, training = parse_arguments(recipe, ["--use_cpu"], TRAINING)
    long_tailed = data.imbalance_factor is not None or data.published is not None
    assert long_tailed == (recipe.stem != "own_data")
    assert stage.methods == (["class_balanced"] if training.mixes else [])
    assert training.output_dir == f"runs/{recipe.stem}"


def test_settings_of_the_other_recipes_are_known():
    classes = (CheckpointArguments, EvaluationArguments, DataArguments)
    chosen, evaluation, _ = parse_arguments(RECIPES / "evaluate.yaml", ["--checkpoint", "runs/mine"], classes)
    assert (chosen.checkpoint, evaluation.output_dir) == ("runs/mine", "runs/evaluation")
    chosen, _, stage, training = parse_arguments(
        RECIPES / "finetune_classifier.yaml",
        ["--checkpoint", "runs/mine", "--use_cpu"],
        (CheckpointArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments),
    )
    assert (chosen.checkpoint, stage.methods) == ("runs/mine", list(METHODS))
    assert training.output_dir == "runs/finetune_classifier"
    classes = (CheckpointArguments, ThresholdArguments, DataArguments)
    _, thresholds, _ = parse_arguments(RECIPES / "fit_thresholds.yaml", ["--checkpoint", "runs/mine"], classes)
    assert thresholds.validation_fraction == 0.1


def test_data_stays_as_it_is_without_imbalance_factor():
    splits = load_splits(DataArguments())
    assert splits.manifest is None
    assert len(splits.train) == 1397
    assert splits.class_names == [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"max_count": 100}, [100, 71, 51, 36, 26, 18, 13, 9, 6, 5]),
        ({"imbalance_kind": "step", "max_count": 100}, [100] * 5 + [5] * 5),
    ],
)
def test_options_of_the_long_tail(settings, counts):
    splits = load_splits(DataArguments(imbalance_factor=20, **settings))
    assert torch.tensor(splits.train["label"][:]).bincount().tolist() == counts
    assert splits.manifest.class_counts == counts
    assert len(splits.test) == 400


def test_largest_class_has_as_many_images_as_there_are():
    available = torch.tensor(load_splits(DataArguments()).train["label"][:]).bincount().tolist()
    counts = load_splits(DataArguments(imbalance_factor=20)).manifest.class_counts
    assert counts == [138, 98, 70, 50, 36, 26, 18, 13, 9, 6] and available[0] == 138 > min(available)


def test_size_of_the_subset_is_said_before_the_training(make_trainer, few_splits, capsys, monkeypatch):
    trainer = make_trainer(splits=few_splits)
    monkeypatch.setattr(trainer, "train", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        run(trainer, few_splits)
    said = "imbalance_factor 20, exp: 201 of 1,397 training images, 60 in the largest class and 3 in the smallest\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("resumed", [False, True])
def test_earlier_training_in_the_folder_is_said_before_it_is_written_over(
    make_trainer, few_splits, capsys, monkeypatch, resumed
):
    trainer = make_trainer(splits=few_splits, resume_from_checkpoint="last" if resumed else None)
    for step in (9, 10):
        (Path(trainer.args.output_dir) / f"checkpoint-{step}").mkdir(parents=True)
    monkeypatch.setattr(trainer, "train", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        run(trainer, few_splits)
    said = "holds checkpoints up to checkpoint-10 of an earlier training, which this one writes over; stop it and give"
    assert (said in capsys.readouterr().out) != resumed


def test_convention_and_seed_choose_the_images(digit_splits):
    shuffled = [
        load_splits(DataArguments(imbalance_factor=20, convention="shuffle", split_seed=seed)) for seed in (0, 1)
    ]
    assert len({splits.manifest.sha256 for splits in [digit_splits, *shuffled]}) == 3


def test_manifest_gives_the_same_rows(tmp_path):
    path = tmp_path / "split.json"
    made = load_splits(DataArguments(imbalance_factor=20, convention="shuffle", split_seed=3))
    made.manifest.save(path)
    again = load_splits(DataArguments(manifest=str(path)))
    assert again.manifest == made.manifest == SplitManifest.load(path)
    assert again.train["label"][:] == made.train["label"][:]
    assert [image.tobytes() for image in again.train["image"]] == [image.tobytes() for image in made.train["image"]]


def test_manifest_of_other_data_is_refused(tmp_path, digit_splits):
    path = tmp_path / "split.json"
    digit_splits.manifest.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "num_rows": 5}))
    with pytest.raises(ValueError, match="made from another dataset: 5 rows then, 1397 now"):
        load_splits(DataArguments(manifest=str(path)))


def test_source_settings_reach_the_loader(monkeypatch, digit_splits):
    calls = []
    images = {"train": digit_splits.train, "test": digit_splits.test}
    monkeypatch.setattr(
        "bce3s_hf.experiments.splits.load_images", lambda name, **settings: calls.append((name, settings)) or images
    )
    settings = {"image_column": "img", "label_column": "fine", "train_split": "all", "test_split": "val"}
    settings |= {"on_stray_file": "skip"}
    load_splits(DataArguments(dataset="birds", **settings))
    assert calls == [("birds", {**settings, "group_column": None, "split_group": None, "need_test": True})]


@pytest.fixture
def grouped_folder(digit_splits, tmp_path, monkeypatch):
    """Digits as parquet files whose column `parity` tells odd from even."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "digits").mkdir()
    for name in ("train", "test"):
        images = load_images("digits")[name]
        images = images.add_column("parity", [label % 2 for label in images["label"]])
        images.to_parquet(tmp_path / "digits" / f"{name}-00000-of-00001.parquet")
    return str(tmp_path / "digits")


def test_groups_of_classes_go_from_their_column_to_the_model(grouped_folder, digit_splits):
    plain = DataArguments(dataset=grouped_folder, label_column="label", imbalance_factor=20, max_count=135)
    splits = load_splits(dataclasses.replace(plain, group_column="parity"))
    assert splits.class_groups == [0, 1] * 5 and load_splits(plain).class_groups is None
    assert splits.train.column_names == splits.test.column_names == ["image", "label"]
    assert splits.manifest == load_splits(plain).manifest
    assert splits.manifest.class_counts == digit_splits.manifest.class_counts
    config = build_model(ModelArguments(**SMALL, uniformity="bce_grouped"), splits, seed=0).config
    assert (config.uniformity, config.class_groups) == ("bce_grouped", [0, 1] * 5)
    assert build_model(ModelArguments(**SMALL), splits, seed=0).config.class_groups is None
    with pytest.raises(ValueError, match="uniformity 'bce_grouped' needs group_column, the column that tells"):
        build_model(ModelArguments(**SMALL, uniformity="bce_grouped"), digit_splits, seed=0)


def test_groups_come_from_all_training_images(grouped_folder):
    path = Path(grouped_folder) / "train-00000-of-00001.parquet"
    images = Dataset.from_parquet(str(path))
    last = np.flatnonzero(np.array(images["label"]) == 9)[-1]  # which the long tail leaves out
    parity = np.array(images["parity"])
    parity[last] = 0
    images.remove_columns("parity").add_column("parity", parity.tolist()).to_parquet(path)
    settings = {"dataset": grouped_folder, "label_column": "label", "imbalance_factor": 20}
    assert last not in load_splits(DataArguments(**settings)).manifest.indices
    with pytest.raises(ValueError, match="class '9' lies in groups 1 and 0; give a group_column"):
        load_splits(DataArguments(**settings, group_column="parity"))


def test_lists_name_no_groups():
    with pytest.raises(ValueError, match="group_column 'family' is of no use with train_list and test_list, which"):
        DataArguments(train_list="a.txt", test_list="b.txt", group_column="family")


SMALL = {"backbone": "resnet20_cifar", "image_size": 16}


def weights(splits, seed=0, **settings):
    model = build_model(ModelArguments(**{**SMALL, **settings}), splits, seed)
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_model_is_determined_by_its_seed(digit_splits):
    one = weights(digit_splits, seed=1)
    torch.manual_seed(5)
    assert torch.equal(one, weights(digit_splits, seed=1))
    assert not torch.equal(one, weights(digit_splits, seed=2))


def test_model_knows_the_classes(digit_splits):
    names = [f"digit {label}" for label in range(10)]
    train = digit_splits.train.cast_column("label", type(digit_splits.train.features["label"])(names=names))
    config = build_model(ModelArguments(**SMALL), type(digit_splits)(train, digit_splits.test, None), seed=0).config
    assert config.num_labels == 10
    assert config.id2label == dict(enumerate(names))
    assert config.label2id["digit 3"] == 3


def test_model_settings_reach_the_model(digit_splits):
    settings = {"joint": "ce", "uniformity": "none", "projection_dim": 24, "backbone_kwargs": '{"in_chans": 1}'}
    model = build_model(ModelArguments(**SMALL, **settings), digit_splits, seed=0)
    assert (model.config.joint, model.config.uniformity) == ("ce", "none")
    assert model.bank.prototypes.shape == (10, 24)
    assert model.config.data_config["input_size"] == [1, 16, 16]
    without = build_model(ModelArguments(**SMALL, contrastive="none"), digit_splits, seed=0)
    assert not hasattr(without, "bank")


def test_forms_of_the_joint_loss_reach_the_model(digit_splits):
    settings = {"normalize_classifier": False, "normalize_features": True, "soft_targets": "positive"}
    config = build_model(ModelArguments(**SMALL, **settings), digit_splits, seed=0).config
    assert {name: getattr(config, name) for name in settings} == settings


def test_prior_bias_is_the_log_odds_of_each_class(digit_splits):
    share = torch.tensor(digit_splits.manifest.class_counts) / len(digit_splits.train)
    model, without = (
        build_model(ModelArguments(**SMALL, prior_bias=prior), digit_splits, seed=0) for prior in (True, False)
    )
    torch.testing.assert_close(model.classifier.bias.data, share.logit())
    assert not torch.allclose(without.classifier.bias.data, share.logit(), atol=0.1)


@pytest.fixture
def finished(make_trainer, few_splits):
    """Trainer after a run of two steps, with its result and its record."""
    trainer = make_trainer(
        splits=few_splits, image_size=8, max_steps=2, logging_strategy="steps", logging_steps=1, mixup_alpha=0.5,
        sampler="power", sampler_power=0.5, ema_decay=0.7, gradient_accumulation_steps=2, lr_base_size=256,
        backbone_kwargs='{"drop_path_rate": 0.1}',
    )  # fmt: skip
    result = run(trainer, few_splits, purpose="test")
    return trainer, result, json.loads(Path(trainer.args.output_dir, "results.json").read_text())


def test_record_holds_what_was_measured_and_all_settings(finished, few_splits):
    trainer, result, record = finished
    assert record["metrics"] == result.metrics and record["protocol"] == "last epoch, no flip averaging"
    assert record["per_class_accuracy"] == pytest.approx(result.per_class.tolist(), abs=1e-6)
    own = {name for name in BCE3STrainingArguments.__annotations__ if not name.startswith("hub_")}
    assert record["training"].keys() == own
    assert not any(name.startswith("hub_") for name in record["training"])
    assert (record["training"]["max_steps"], record["training"]["gradient_accumulation_steps"]) == (2, 2)
    expected = {"mixup_alpha": 0.5, "cutmix_alpha": 0.0, "sampler": "power", "sampler_power": 0.5, "ema_decay": 0.7,
                "lr_base_size": 256, "lr_scheduler_type": "cosine", "optim": "sgd"}  # fmt: skip
    assert {name: record["training"][name] for name in expected} == expected
    assert (record["global_batch"], record["scaled_learning_rate"]) == (64, 0.01 * 64 / 256)
    assert record["model"]["backbone_kwargs"] == {"drop_path_rate": 0.1}
    assert record["model"]["soft_targets"] == "full" and record["model"]["prior_bias"] is True
    assert (record["purpose"], record["seed"], record["backbone"]) == ("test", 42, "resnet20_cifar")
    assert record["backbone_parameters"] == sum(value.numel() for value in trainer.model.backbone.parameters())
    assert record["split"]["sha256"] == few_splits.manifest.sha256 and "indices" not in record["split"]
    assert [entry["step"] for entry in record["log"]] == [1, 2] and record["train_seconds"] > 0


def test_folder_holds_the_model_that_was_measured(finished):
    trainer, result, record = finished
    folder = trainer.args.output_dir
    model = BCE3SForImageClassification.from_pretrained(folder).eval()
    test = trainer.eval_dataset
    with torch.no_grad():
        images = normalize(torch.stack([item["pixel_values"] for item in test]), model.config.data_config)
        predictions = model(images).logits.argmax(dim=1)
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(test.labels, predictions))
    recalls = recall_score(test.labels, predictions, average=None, zero_division=0.0)
    assert result.per_class == pytest.approx(recalls)
    assert torch.equal(trainer.model.classifier.weight, model.classifier.weight)
    assert SplitManifest.load(f"{folder}/split.json").sha256 == record["split"]["sha256"]


def test_test_images_are_measured_beside_others(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, image_size=8, validation_fraction=0.2)
    assert list(trainer.eval_dataset) == ["validation", "test"]
    alone = make_trainer(trainer.model, splits=few_splits, image_size=8)
    assert measure(trainer).metrics["loss"] == measure(alone).metrics["loss"]


def test_unknown_backbone_is_refused(digit_splits):
    with pytest.raises(ValueError, match="unknown backbone 'resnet33_cifar'.*Try .*resnet32_cifar"):
        build_model(ModelArguments(backbone="resnet33_cifar"), digit_splits, seed=0)


@pytest.mark.parametrize("name", ["published", "auto_augment"])
def test_none_undoes_a_setting_of_a_yaml_file(name):
    recipe = RECIPES / "imagenet_lt.yaml"
    kept, undone = (parse_arguments(recipe, ["--use_cpu", *more], TRAINING)[1] for more in ([], [f"--{name}=none"]))
    assert getattr(kept, name) is not None and getattr(undone, name) is None


def test_held_out_images_are_those_that_the_subset_left_out():
    splits = load_splits(DataArguments(imbalance_factor=20, held_out_per_class=10))
    plain = load_splits(DataArguments(imbalance_factor=20))
    assert splits.manifest == plain.manifest and plain.validation is None
    counts = torch.tensor(splits.validation["label"][:]).bincount(minlength=10).tolist()
    available = torch.tensor(load_splits(DataArguments()).train["label"][:]).bincount()
    left = available - torch.tensor(splits.manifest.class_counts)
    assert counts == left.clamp_max(10).tolist() and min(counts) < 10 == max(counts)
    trained = {image.tobytes() for image in splits.train["image"][:]}
    assert not trained & {image.tobytes() for image in splits.validation["image"][:]}


def test_held_out_images_are_evaluated_beside_the_test_images(make_trainer):
    splits = load_splits(DataArguments(imbalance_factor=20, max_count=60, held_out_per_class=2))
    trainer = make_trainer(splits=splits, max_steps=2, eval_strategy="steps", eval_steps=1, logging_strategy="no")
    trainer.train()
    evaluations = run_record(trainer)["evaluations"]
    assert [entry["step"] for entry in evaluations] == [1, 2]
    assert {"eval_test_few", "eval_validation_balanced_accuracy"} <= evaluations[0].keys()
    assert not [name for name in evaluations[0] if "per_second" in name]
    with pytest.raises(ValueError, match="held_out_per_class .* and validation_fraction 0.1 both hold out images"):
        make_trainer(splits=splits, validation_fraction=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out_per_class": 0, "imbalance_factor": 20}, "held_out_per_class must be at least 1, got 0"),
        ({"held_out_per_class": 5}, "held_out_per_class 5 takes what imbalance_factor leaves out"),
    ],
)
def test_images_that_cannot_be_held_out(settings, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**settings)


def test_data_of_one_class_is_refused(few_splits):
    one = Dataset.from_dict({"label": [0, 0]}, features=Features({"label": ClassLabel(names=["nought"])}))
    with pytest.raises(ValueError, match="the dataset has one class alone, 'nought'; give another dataset or label_c"):
        build_model(ModelArguments(), dataclasses.replace(few_splits, train=one), seed=0)
