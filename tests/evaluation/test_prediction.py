"""Pictures read as in training, answers by thresholds, and nothing harmful on the terminal or in a spreadsheet."""

import csv
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT

from bce3s_hf import BCE3SForImageClassification, eval_transform, load_images
from bce3s_hf.evaluation.outputs import classify_features, collect_outputs
from bce3s_hf.evaluation.prediction import (
    Prediction,
    PredictionCounts,
    check_csv,
    counts_text,
    find_images,
    predict_images,
    prediction_text,
    write_csv,
)

RECIPE = ROOT / "recipes" / "predict.py"
NAMES = {0: "zero", 1: "one", 2: "two", 3: "three"}


@pytest.fixture
def model():
    return make_model()


def make_model(thresholds=None, **settings):
    torch.manual_seed(0)
    settings = {"image_size": 12, "num_labels": 4, "id2label": NAMES, **settings}
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", **settings)
    model.config.score_thresholds = thresholds
    return model


def noise(*size, mode="RGB", seed=0):
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def save(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return folder


def logits_of(model, image):
    with torch.no_grad():
        return model.eval()(eval_transform(model.config.data_config)(image)[None]).logits[0]


def only(model, image, **options):
    (prediction,) = predict_images(model, [image], **options)
    return prediction


def test_labels_are_those_of_the_largest_logits_with_their_sigmoids(model, tmp_path):
    image = noise(12, 12)
    path = save(tmp_path, a=image) / "a.png"
    logits = logits_of(model, image)
    order = sorted(range(4), key=lambda label: -logits[label])
    for source in (path, image):
        prediction = only(model, source, top_k=3)
        assert prediction.labels == [NAMES[label] for label in order[:3]] and prediction.answer == NAMES[order[0]]
        assert prediction.scores == pytest.approx([float(torch.sigmoid(logits[label])) for label in order[:3]])
        assert prediction.error == "" and prediction.path == (path if source is path else None)
    assert sorted(only(model, image).labels) == sorted(NAMES.values())  # no more than there are


def test_scores_of_a_model_with_softmax_loss_are_its_softmax():
    model, image = make_model(joint="ce", contrastive="none", uniformity="none"), noise(12, 12)
    assert sum(only(model, image).scores) == pytest.approx(1)
    assert only(model, image).scores[0] == pytest.approx(float(logits_of(model, image).softmax(dim=0).max()))


def test_order_is_by_logits_where_all_scores_are_one(model):
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([60.0, 90, 80, 70]))
    prediction = only(model, noise(12, 12))
    assert prediction.labels == ["one", "two", "three", "zero"] and prediction.scores == [1, 1, 1, 1]


def test_answer_is_none_of_these_below_the_threshold_of_the_first_class_alone(model):
    image = noise(12, 12)
    before = only(model, image)
    first = next(label for label, name in NAMES.items() if name == before.labels[0])
    for own, others, answer in (
        (before.scores[0], 1.0, before.labels[0]),
        (np.nextafter(before.scores[0], 1), 0.0, "none of these"),
    ):
        model.config.score_thresholds = [own if label == first else others for label in range(4)]
        after = only(model, image)
        assert (after.answer, after.labels, after.scores) == (answer, before.labels, before.scores)
        assert after.rejected == (answer == "none of these")


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_change_nothing_and_are_read_as_they_are_asked_for(model, batch_size):
    images, read = [noise(12, 12, seed=seed) for seed in range(5)], []
    alone = [only(model, image) for image in images]
    stream = predict_images(model.train(), (read.append(image) or image for image in images), batch_size=batch_size)
    assert read == []
    found = [next(stream)]
    assert len(read) == min(batch_size, 5)
    found += stream
    assert [prediction.labels for prediction in found] == [prediction.labels for prediction in alone]
    for one, other in zip(found, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_pictures_are_turned_as_their_exif_orientation_says(model, tmp_path):
    upright = noise(12, 12)
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)  # 6: to be turned by 90 degrees clockwise
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = only(model, upright).scores
    assert only(model, tmp_path / "turned.png").scores == expected
    assert only(model, PIL.Image.open(tmp_path / "turned.png")).scores == expected
    assert only(model, turned).scores != expected


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_deep_and_transparent_pictures_are_read_as_in_training(channels, tmp_path):
    model = make_model(backbone_kwargs={"in_chans": channels}, pixel_range=[0, 4080])
    grey = noise(12, 12, mode="L")
    deep = PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 16)
    real = PIL.Image.fromarray(np.asarray(grey).astype(np.float32) * 16)
    clear = PIL.Image.new("RGBA", (12, 12), (10, 20, 30, 0))
    save(
        tmp_path, grey=grey, deep=deep, color=noise(12, 12), clear=clear, white=PIL.Image.new("RGB", (12, 12), "white")
    )
    expected = only(model, grey).scores
    for image in (tmp_path / "deep.png", tmp_path / "grey.png", deep, real):
        assert only(model, image).scores == expected
    assert only(model, tmp_path / "color.png").scores != expected
    assert only(model, tmp_path / "clear.png").scores == only(model, clear).scores
    assert only(model, clear).scores == only(model, tmp_path / "white.png").scores


def test_deep_picture_is_an_error_of_its_own_where_the_model_has_no_range(model):
    deep = PIL.Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12))
    broken, whole = predict_images(model, [deep, noise(12, 12)])
    assert broken.labels == [] and "mode I;16, values from 0 to 143), and there is no pixel_range" in broken.error
    assert whole.error == "" and len(whole.labels) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_model_saved_in_half_precision_predicts_and_is_evaluated(dtype, make_trainer, digit_splits, tmp_path):
    make_trainer(image_size=16).model.to(dtype).save_pretrained(tmp_path)
    half = BCE3SForImageClassification.from_pretrained(tmp_path)
    whole = BCE3SForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert half.dtype == dtype
    images = digit_splits.test[:20]["image"]
    for one, other in zip(predict_images(half, images), predict_images(whole, images), strict=True):
        scores = dict(zip(other.labels, other.scores, strict=True))
        assert one.scores == pytest.approx([scores.get(label, one.scores[0]) for label in one.labels], abs=0.02)
    trainer = make_trainer(half, image_size=16)
    outputs = collect_outputs(half, trainer.eval_dataset)
    assert outputs.features.dtype == torch.float32
    predictions, scores = classify_features([outputs.features], half)
    assert scores.dtype == np.float32
    accuracy = np.mean(predictions == np.asarray(trainer.eval_dataset.labels))
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(accuracy, abs=0.02)


def test_digits_are_predicted_as_the_trainer_predicts_them(make_trainer, digit_splits):
    trainer = make_trainer(image_size=16)
    predictions, scores = trainer.predict_classes(trainer.eval_dataset).predictions.T
    found = list(predict_images(trainer.model, digit_splits.test[:40]["image"], top_k=1, batch_size=16))
    assert [int(prediction.answer) for prediction in found] == predictions[:40].tolist()
    assert [prediction.scores[0] for prediction in found] == pytest.approx(scores[:40].tolist(), abs=1e-6)


def test_a_broken_file_among_others_is_an_error_of_its_own(model, tmp_path):
    folder = save(tmp_path, a=noise(12, 12), d=noise(12, 12))
    (folder / "b.png").write_text("text")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:-300])
    paths = [folder / f"{name}.png" for name in "abcde"]
    found = list(predict_images(model, paths))
    assert [prediction.path for prediction in found] == paths
    assert [prediction.answer != "" for prediction in found] == [True, False, False, True, False]
    assert found[0].scores == pytest.approx(found[3].scores)
    assert found[1] == Prediction(paths[1], [], [], "", "no image that PIL knows")
    assert "truncated" in found[2].error and "No such file" in found[4].error
    assert not any(prediction.labels for prediction in predict_images(model, paths[1:3]))


@pytest.mark.parametrize("name", ["http:a.png", "zip:::b.png", "ü ö.png", os.fsdecode(b"\xff.png"), "=1+1.png"])
def test_any_file_name_is_read(model, tmp_path, name):
    path = tmp_path / name
    try:
        noise(12, 12).save(path)
    except OSError:
        pytest.skip("the file system does not take the name")
    assert find_images([tmp_path]) == [path] and only(model, path).error == ""


@pytest.mark.parametrize("option", ["top_k", "batch_size"])
def test_options_below_one_are_refused_at_once(model, option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        predict_images(model, [], **{option: 0})


def test_images_of_folders_are_found_at_any_depth_in_order(tmp_path):
    folder = save(tmp_path / "folder", b=noise(2, 2), a=noise(2, 2))
    save(folder / "deep", z=noise(2, 2))
    noise(2, 2).save(folder / "deep" / "Y.JPG")
    for name in ("notes.txt", "report.pdf", "png"):  # PIL writes PDF but does not read it
        (folder / name).write_text("text")
    (folder / "folder.png").mkdir()
    single = save(tmp_path, single=noise(2, 2)) / "single.png"
    names = ["single.png", "a.png", "b.png", "Y.JPG", "z.png"]
    assert [path.name for path in find_images([single, str(folder)])] == names


def test_what_systems_leave_behind_is_not_predicted(tmp_path):
    folder = save(tmp_path / ".hidden", a=noise(2, 2))
    save(folder / ".ipynb_checkpoints", a=noise(2, 2))
    save(folder / "__MACOSX", a=noise(2, 2))
    (folder / "._a.png").write_text("text")
    (folder / "film.mpg").write_text("text")  # PIL tells such a file, and decodes none
    (folder / "itself").symlink_to(folder)
    (folder / "link").symlink_to(save(tmp_path / "other", b=noise(2, 2)))
    assert [path.relative_to(folder).as_posix() for path in find_images([folder])] == ["a.png", "link/b.png"]


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "notes.png").write_text("text")
    empty = tmp_path / "empty"
    empty.mkdir()
    for place, message in (
        (tmp_path / "gone.png", "gone.png' does not exist; give files or folders of images"),
        (tmp_path / "notes.png", "notes.png' is no image that can be read: cannot identify"),
        (empty, "empty' holds no image, at any depth"),
    ):
        with pytest.raises(ValueError, match=message):
            find_images([save(tmp_path, good=noise(2, 2)) / "good.png", place])


def test_an_error_without_a_text_is_told_by_its_kind(model, tmp_path, monkeypatch):
    def fail(path):
        raise TimeoutError

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert only(model, tmp_path / "a.png").error == "TimeoutError"


def test_terminal_sees_escapes_not_control_characters():
    prediction = Prediction(Path("p\x1bq.png"), ["l\x1b", "m"], [0.8765, 0.1], "l\x1b")
    assert prediction_text(prediction).split("\n") == [r"p\x1bq.png: l\x1b", r"  0.876 l\x1b", "  0.100 m"]
    broken = Prediction(Path("p\n.png"), [], [], "", "bad\x1b")
    assert prediction_text(broken) == r"p\n.png: cannot be read: bad\x1b"


def test_csv_holds_every_prediction_and_no_formula(tmp_path):
    predictions = [
        Prediction(Path('a,\n".png'), ["@x", "-y"], [0.123456789, 1e-7], "@x"),
        Prediction(Path("=1+1.png"), [], [], "", "+broken"),
        Prediction(Path("c.png"), ["\tz"], [1.0], "none of these", rejected=True),
        Prediction(Path("\udcff.png"), ["\rz", "a=b"], [1.0, 0.5], "\rz"),
    ]
    file = tmp_path / "out.csv"
    file.write_text("older and much longer than what is written\n" * 100)
    counts = write_csv(iter(predictions), file, 2)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["path", "answer", "label_1", "score_1", "label_2", "score_2", "error"],
        ['a,\n".png', "'@x", "'@x", "0.123457", "'-y", "1e-07", ""],
        ["'=1+1.png", "", "", "", "", "", "'+broken"],
        ["c.png", "none of these", "'\tz", "1", "", "", ""],
        [r"\udcff.png", "'\rz", "'\rz", "1", "a=b", "0.5", ""],
    ]
    assert counts == PredictionCounts(Counter({"@x": 1, "\rz": 1}), rejected=1, unread=1)


def test_classes_with_odd_names_are_answers(tmp_path):
    answered = [Prediction(None, [name], [0.9], name) for name in ("none of these", "", "")]
    rejected = Prediction(None, [""], [0.1], "none of these", rejected=True)
    counts = write_csv([*answered, rejected], tmp_path / "out.csv", 1)
    assert counts == PredictionCounts(Counter({"none of these": 1, "": 2}), rejected=1, unread=0)
    assert counts_text(counts).splitlines()[0] == "4 images: 3 answered, 1 none of these, 0 that cannot be read"


def test_summary_counts_answers():
    lines = counts_text(PredictionCounts(Counter({"cat": 2, "d\x1bg": 5}), rejected=3, unread=1)).splitlines()
    assert lines == ["11 images: 7 answered, 3 none of these, 1 that cannot be read", r"  5 d\x1bg", "  2 cat"]
    assert (
        counts_text(PredictionCounts(Counter({"cat": 1})))
        == "1 images: 1 answered, 0 none of these, 0 that cannot be read\n  1 cat"
    )


def test_csv_that_cannot_be_written_is_refused(tmp_path):
    check_csv(tmp_path / "new" / "out.csv")
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("picture.png", "output_csv must be a name that ends in .csv, got '.*picture.png'"),
        ("file/out.csv", "out.csv' cannot be written"),
        ("folder.csv", "folder.csv' cannot be written"),
    ):
        with pytest.raises(ValueError, match=message):
            check_csv(tmp_path / name)


def start(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, options)])
    runpy.run_path(str(RECIPE), run_name="__main__")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A saved model that says nothing, for images of digits, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_model(thresholds=[1.0] * 4).save_pretrained("model")
    for row, image in enumerate(load_images("digits")["test"][:3]["image"]):
        save(tmp_path / "digits", **{f"digit_{row}": image})
    return "model"


def test_recipe_prints_files(checkpoint, monkeypatch, capsys):
    files = ("digits/digit_1.png", "digits/digit_0.png")
    start(monkeypatch, *files, "--checkpoint", checkpoint, "--top_k", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == [f"{file}: none of these" for file in files] and len(lines) == 6
    assert not Path("runs").exists()


def test_recipe_writes_a_folder_to_csv_and_goes_on_after_a_broken_file(checkpoint, monkeypatch, capsys):
    Path("digits", "digit_1.png").write_text("text")
    start(monkeypatch, "digits", "--checkpoint", checkpoint, "--batch_size", 2)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "3 images: 0 answered, 2 none of these, 1 that cannot be read"
    assert lines[-1] == "Saved in runs/predictions.csv" and "digit_" not in printed.out
    assert "images: 100%" in printed.err and "3/3" in printed.err
    with open("runs/predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [f"digits/digit_{number}.png" for number in range(3)]
    assert [row["answer"] for row in rows] == ["none of these", "", "none of these"]
    assert rows[1]["error"] == "no image that PIL knows" and rows[0]["error"] == ""
    assert rows[0]["label_4"] in NAMES.values() and "label_5" not in rows[0]  # of four classes


def test_recipe_writes_files_to_the_csv_asked_for(checkpoint, monkeypatch, capsys):
    start(monkeypatch, "digits/digit_0.png", "--checkpoint", checkpoint, "--output_csv", "out/one.csv", "--top_k", 1)
    assert Path("out/one.csv").read_text().splitlines()[0] == "path,answer,label_1,score_1,error"
    assert "Saved in out/one.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("gone.png",), "image 'gone.png' does not exist"),
        (("digits", "--checkpoint", "gone"), "cannot load checkpoint 'gone', neither a folder nor on the Hub"),
        (("digits", "--output_csv", "digits/digit_0.png"), "output_csv must be a name that ends in .csv"),
    ],
)
def test_recipe_refuses_before_any_work(checkpoint, options, message, monkeypatch):
    if "--checkpoint" not in options:
        options = (*options, "--checkpoint", checkpoint)
    with pytest.raises(ValueError, match=message):
        start(monkeypatch, *options)
    find_images(["digits/digit_0.png"])  # still an image
