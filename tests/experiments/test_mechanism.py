"""Who moves a classifier vector: hand numbers, autograd, the optimum of the bias; runs measured and compared."""

import json
import math
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from bce3s_hf.data import collate_images
from bce3s_hf.evaluation import gradient_shares
from bce3s_hf.evaluation.gradient_shares import group_means, mechanism_table, push_shares
from bce3s_hf.experiments.mechanism import measure_run, open_runs
from bce3s_hf.experiments.plan_runs import train_run
from bce3s_hf.experiments.run import evaluation_images, load_checkpoint
from bce3s_hf.losses import JOINT_LOSSES

every_form = pytest.mark.parametrize("joint", JOINT_LOSSES)
L = math.log(3)


def check(shares, push, push_from_many, gradient_per_image, pushing_images):
    expected = locals()
    for name, values in vars(shares).items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, torch.tensor(expected[name], dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("joint", "push", "gradient"),
    [("bce", [0.8, 5 / 7], [1.25 * L, 0.7 * L]), ("ce", [4 / 9, 5 / 9], [0.45 * L, 0.45 * L])],
)
def test_hand_numbers(joint, push, gradient):
    """Logits (log 3, 0) of class 0 and (0, log 9) of class 1: Sigmoids 3/4, 1/2, 1/2, 9/10, Softmax 3/4 and 9/10."""
    features = torch.tensor([[L, 0], [0, 2 * L]], dtype=torch.float64)
    weight = torch.tensor([[2.0, 0], [0, 0.5]])
    many = torch.tensor([True, False])
    shares = push_shares(features, torch.tensor([0, 1]), weight, torch.zeros(2), joint=joint, many=many)
    check(shares, push, [0.0, 1], gradient, [1.0, 1])


def small(seed=0, samples=15, num_classes=4, dim=3):
    generator = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(samples) ** 2 % num_classes  # classes 0 and 1 only
    labels[:3] = torch.tensor([2, 2, 3])
    weight = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    return features, labels, weight, bias


@every_form
@pytest.mark.parametrize(("unit_classifier", "unit_features"), [(True, False), (False, False), (True, True)])
def test_lengths_are_those_of_autograd(joint, unit_classifier, unit_features):
    features, labels, weight, bias = small()
    normalisation = {"normalize_classifier": unit_classifier, "normalize_features": unit_features}
    many = torch.tensor([False, True, True, False])
    used = (F.normalize(weight) if unit_classifier else weight).requires_grad_()
    lengths = []
    for x, y in zip(features, labels, strict=True):
        given = {"normalize_classifier": False, "normalize_features": unit_features}
        loss = JOINT_LOSSES[joint](x[None], used, bias, y[None], **given)
        lengths.append(torch.autograd.grad(loss, used)[0].norm(dim=1))
    lengths = torch.stack(lengths)
    expected = {"push": [], "push_from_many": [], "gradient_per_image": [], "pushing_images": []}
    for label in range(4):
        of_class = lengths[:, label]
        pushes = of_class[labels != label]
        expected["push"].append(pushes.sum() / of_class.sum())
        expected["push_from_many"].append(of_class[(labels != label) & many[labels]].sum() / pushes.sum())
        expected["gradient_per_image"].append(of_class.sum() / (labels == label).sum())
        expected["pushing_images"].append(pushes.sum() ** 2 / pushes.square().sum())
    shares = push_shares(features, labels, weight, bias, joint=joint, many=many, **normalisation)
    check(shares, **expected)


@every_form
def test_push_is_half_where_the_bias_is_at_its_optimum(joint):
    features, labels, weight, bias = small(samples=40)
    features = 3 * F.normalize(features)
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [bias], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = JOINT_LOSSES[joint](features, weight, bias, labels)
        value.backward()
        return value

    before = push_shares(features, labels, weight, bias, joint=joint, many=torch.ones(4, dtype=torch.bool))
    optimizer.step(loss)
    after = push_shares(features, labels, weight, bias, joint=joint, many=torch.ones(4, dtype=torch.bool))
    assert (before.push - 0.5).abs().max() > 0.1
    torch.testing.assert_close(after.push, torch.full((4,), 0.5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_softmax_does_not_see_a_shift_of_all_biases():
    features, labels, weight, bias = small()
    given = {"many": torch.zeros(4, dtype=torch.bool)}
    one, other = (push_shares(features, labels, weight, bias + shift, joint="ce", **given) for shift in (0, 5))
    torch.testing.assert_close(one.push, other.push)
    one, other = (push_shares(features, labels, weight, bias + shift, joint="bce", **given) for shift in (0, 5))
    assert (other.push > one.push).all() and other.push.mean() > one.push.mean() + 0.1


@every_form
def test_rows_are_taken_in_chunks(joint, monkeypatch):
    given = {"joint": joint, "many": torch.tensor([True, False, False, True])}
    whole = push_shares(*small(), **given)
    seen = []

    def logits(part, *args, **kwargs):
        seen.append(len(part))
        return normalized_linear(part, *args, **kwargs)

    normalized_linear = gradient_shares.normalized_linear
    monkeypatch.setattr(gradient_shares, "normalized_linear", logits)
    for chunk, parts in ((4 * 7 + 1, [7, 7, 1]), (1, [1] * 15)):
        monkeypatch.setattr(gradient_shares, "_CHUNK", chunk)
        seen.clear()
        torch.testing.assert_close(vars(push_shares(*small(), **given)), vars(whole))
        assert seen == parts


@every_form
def test_confident_images_keep_their_digits(joint):
    """Both images have slopes of about exp(-60), which 1 - p would round to zero."""
    features = torch.tensor([[60.0, -60], [-60, 60]])
    many = torch.zeros(2, dtype=torch.bool)
    shares = push_shares(features, torch.tensor([0, 1]), torch.eye(2), torch.zeros(2), joint=joint, many=many)
    torch.testing.assert_close(shares.push, torch.full((2,), 0.5, dtype=torch.float64))


@every_form
def test_equal_images_push_by_their_number_and_a_class_without_images_is_only_pushed(joint):
    features = torch.tensor([[1.0, 0]]).repeat(7, 1)
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 1])
    many = torch.tensor([False, True, False])
    shares = push_shares(features, labels, torch.eye(3, 2), torch.zeros(3), joint=joint, many=many)
    assert shares.pushing_images.tolist() == pytest.approx([5, 2, 7])
    assert shares.push_from_many.tolist() == pytest.approx([1, 0, 5 / 7])
    assert shares.push[2] == 1
    assert shares.gradient_per_image.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": "mse"}, "joint must be one of bce, ce, got 'mse'"),
        ({"features": torch.zeros(3)}, r"features must be a floating matrix, got torch.float32 of shape \(3,\)"),
        ({"weight": torch.zeros(2, 5)}, r"weight must have 3 columns, got shape \(2, 5\)"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(K,\) = \(2,\), got \(3,\)"),
        ({"many": torch.zeros(1, dtype=torch.bool)}, r"many must have shape \(K,\) = \(2,\), got \(1,\)"),
        ({"labels": torch.zeros(4, 2)}, r"labels must be hard, torch.long \(N,\), got torch.float32"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, r"hard targets must lie in \[0, 2\), got 0 to 2"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"hard targets must have shape \(B,\) = \(4,\), got \(3,\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {
        "features": torch.zeros(4, 3),
        "labels": torch.zeros(4, dtype=torch.long),
        "weight": torch.ones(2, 3),
        "bias": torch.zeros(2),
        "joint": "bce",
        "many": torch.zeros(2, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        push_shares(**given | change)


def test_group_means_leave_out_nan_and_empty_groups():
    means = group_means(np.array([1, 3, np.nan, 5]), np.array([200, 101, 100, 19]))
    assert means == {"many": 2, "few": 5, "all": 3, "std": pytest.approx(math.sqrt(8 / 3))}


SETTINGS = {
    "dataset": "digits",
    "imbalance_factor": 20,
    "backbone": "resnet20_cifar",
    "image_size": 8,
    "num_train_epochs": 2,
    "max_count": 110,
    "per_device_train_batch_size": 128,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}
ROWS = {"ce-0": {"joint": "ce", "contrastive": "none", "uniformity": "none"}, "bce-0": {"contrastive": "none"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of two epochs."""
    place = tmp_path_factory.mktemp("runs")
    for name, row in ROWS.items():
        train_run({**SETTINGS, **row, "seed": 0, "output_dir": str(place / name)})
    return [place / name for name in ROWS]


@pytest.fixture(scope="module")
def measured(folders):
    runs = open_runs(folders)
    return runs, {run.name: measure_run(run) for run in runs}


def test_each_checkpoint_is_measured(measured):
    runs, records = measured
    assert list(records) == list(ROWS)
    for run in runs:
        points = records[run.name]["checkpoints"]
        assert [point["epoch"] for point in points] == [1, 2]
        assert [point["step"] for point in points] == [point.step for point in run.checkpoints]
        assert points[0]["bce_push"] != points[1]["bce_push"]
        assert records[run.name]["settings"].items() >= ROWS[run.name].items()
    json.dumps(records, allow_nan=False)


def plain_features(model, images):
    """Features of images in one batch, normalised by hand."""
    dataset = evaluation_images(images, model.config.data_config)
    batch = collate_images([dataset[row] for row in range(len(dataset))])
    mean, std = (torch.tensor(model.config.data_config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        pixels = (batch["pixel_values"] / 255 - mean) / std
        return model(pixels, output_features=True).features, batch["labels"]


def test_figures_of_a_checkpoint_are_those_of_its_model_and_images(measured):
    runs, records = measured
    model = load_checkpoint(str(runs[1].checkpoints[-1].folder)).eval()
    record = records["bce-0"]
    last = record["checkpoints"][-1]
    unit = F.normalize(model.classifier.weight.detach().double()).numpy()
    cosines = (unit @ unit.T)[~np.eye(10, dtype=bool)]
    found = (last["classifier_cosine"][name] for name in ("mean", "std"))
    assert tuple(found) == pytest.approx((cosines.mean(), cosines.std()), abs=1e-6)

    features, labels = plain_features(model, runs[1].splits.test)
    of_three = features[labels == 3].numpy()
    mean = of_three.mean(axis=0)
    cosine = of_three @ mean / np.linalg.norm(of_three, axis=1) / np.linalg.norm(mean)
    assert record["per_class"]["test_compactness"][3] == pytest.approx(cosine.mean(), abs=1e-5)

    counts = np.array(record["class_counts"])
    assert counts.tolist() == model.config.class_counts
    for name, values in record["per_class"].items():
        assert last[name] == pytest.approx(group_means(np.array(values), counts), abs=1e-5)
        assert last[name].keys() == {"many", "medium", "few", "all", "std"}


def test_training_images_are_measured_as_they_are(measured):
    runs, records = measured
    model = load_checkpoint(str(runs[0].checkpoints[-1].folder)).eval()
    features, labels = plain_features(model, runs[0].splits.train)
    layer, many = model.classifier, torch.bincount(labels) > 100
    for joint in JOINT_LOSSES:
        shares = push_shares(features, labels, layer.weight, layer.bias, joint=joint, many=many)
        for name, values in vars(shares).items():
            assert records["ce-0"]["per_class"][f"{joint}_{name}"] == pytest.approx(values.tolist(), rel=1e-3)


def test_final_model_counts_where_the_last_checkpoint_is_of_another_step(folders, tmp_path):
    half = shutil.copytree(folders[0], tmp_path / "half")
    both = open_runs([half])[0].checkpoints
    shutil.rmtree(both[-1].folder)
    again = open_runs([half])[0].checkpoints
    assert [(point.epoch, point.step) for point in again] == [(point.epoch, point.step) for point in both]
    assert again[-1].folder == half
    (half / "results.json").unlink()  # still training
    assert [point.epoch for point in open_runs([half])[0].checkpoints] == [1]
    (both[0].folder / "trainer_state.json").unlink()  # written last
    refused = pytest.raises(ValueError, match=r"holds no whole checkpoint; train with --save_strategy=epoch")
    with pytest.warns(UserWarning, match="is half-written and passed over"), refused:
        open_runs([half])


def edited(folder, target, file, **changes):
    shutil.copytree(folder, target)
    for path in target.glob(file):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_folders_that_cannot_be_compared_are_refused_before_any_is_measured(folders, tmp_path):
    with pytest.raises(ValueError, match="has no settings.json; give folders that recipes/reproduce.py trained into"):
        open_runs([folders[0], tmp_path])
    with pytest.raises(ValueError, match="must have folders of different names, which label them; got ce-0, ce-0"):
        open_runs([folders[0], folders[0]])
    counts = [90, 80, 70, 60, 50, 40, 30, 20, 10, 5]
    other = edited(folders[1], tmp_path / "other", "checkpoint-*/config.json", class_counts=counts)
    with pytest.raises(ValueError, match=r"other and ce-0 were .* different images by class \(455 of 10 classes; "):
        open_runs([folders[0], other])
    other = edited(folders[1], tmp_path / "less", "settings.json", imbalance_factor=50)
    with pytest.raises(
        ValueError, match="less was trained on .* classes, its data settings give .*; restore that data"
    ):
        open_runs([other])


def test_table_is_of_the_last_checkpoint_and_marks_empty_groups():
    point = {
        "epoch": 3.0,
        "bce_push": {"many": 0.51, "medium": 0.6, "few": 0.7, "all": 0.6},
        "ce_push": {"many": 0.5, "medium": 0.49, "all": 0.45},
        "test_compactness": {"many": 0.9, "medium": 0.89123, "few": 0.88, "all": 0.89},
        "classifier_cosine": {"mean": -0.01, "std": 0.12345},
    }
    table = mechanism_table({"ce-0": {"checkpoints": [{}, point]}}).splitlines()
    assert table[0].count("|") == table[1].count("|") == table[2].count("|") == 7
    assert table[2] == (
        "| ce-0 | 3 | 0.510 / 0.600 / 0.700 | 0.500 / 0.490 / - | 0.900 / 0.891 / 0.880 | -0.0100, 0.1235 |"
    )


def test_recipe_saves_figures_and_pictures_and_prints_a_table(folders, measured, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    recipe = ROOT / "recipes" / "mechanism.py"
    monkeypatch.setattr(
        sys, "argv", [str(recipe), "--runs", *map(str, folders), "--output_dir", str(tmp_path / "out")]
    )
    runpy.run_path(str(recipe), run_name="__main__")
    saved = json.loads((tmp_path / "out" / "mechanism.json").read_text())
    assert saved["command"].startswith("python ") and "torch" in saved["versions"]
    assert saved["runs"] == json.loads(json.dumps(measured[1]))
    assert mechanism_table(saved["runs"]) in capsys.readouterr().out
    for name in ("push_shares", "classifier_cosines", "compactness"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_recipe_needs_matplotlib_before_it_measures(folders, tmp_path, monkeypatch, capsys):
    recipe = ROOT / "recipes" / "mechanism.py"
    monkeypatch.setattr(
        sys, "argv", [str(recipe), "--runs", *map(str, folders), "--output_dir", str(tmp_path / "out")]
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        runpy.run_path(str(recipe), run_name="__main__")
    assert 'need matplotlib: pip install "bce3s_hf[plots]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
