"""Pictures: written, ordered from head to tail, one line a method."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

from bce3s_hf.data import long_tail_counts  # noqa: E402
from bce3s_hf.evaluation.metrics import CalibrationCurve  # noqa: E402
from bce3s_hf.evaluation.plots import (  # noqa: E402
    plot_by_class,
    plot_calibration,
    plot_class_counts,
    plot_classifier_cosines,
    plot_cosines_over_training,
    plot_features,
    plot_per_class_accuracy,
)


def accuracies(num_classes, *names):
    rng = np.random.default_rng(0)
    falling = np.linspace(0.95, 0.2, num_classes)
    return {name: np.clip(falling + rng.normal(0, 0.05, num_classes), 0, 1) for name in names}


@pytest.fixture
def figures(monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: saved.append(figure))
    return saved


@pytest.mark.parametrize("num_classes", [2, 100])
def test_pictures_by_class_are_written(tmp_path, num_classes):
    counts, values = np.array(long_tail_counts(num_classes, 500, 100)), accuracies(num_classes, "CE joint", "BCE3S")
    plot_per_class_accuracy(values, counts, tmp_path / "a.png", title="CIFAR-LT")
    plot_classifier_cosines(np.eye(num_classes), counts, tmp_path / "b.png", "title")
    plot_by_class({"one": values, "other": values}, counts, tmp_path / "c.png")
    for name in "abc":
        path = tmp_path / f"{name}.png"
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_ending_chooses_the_format(tmp_path):
    path = tmp_path / "accuracy.pdf"
    plot_per_class_accuracy(accuracies(2, "BCE3S"), [10, 5], path)
    assert path.read_bytes().startswith(b"%PDF")


def test_classes_run_from_head_to_tail(figures):
    plot_per_class_accuracy({"BCE3S": np.array([0.1, 0.9, 0.5])}, [10, 500, 50], "unused.png", title="digits")
    axis, tail = figures[0].axes
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([90, 50, 10])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["500", "50", "10"]
    assert tail.patches[0].get_data().values.tolist() == [500, 50, 10]
    assert [text.get_text() for text in axis.texts] == ["Many", "Medium", "Few"]
    assert axis.get_title() == "digits"


def test_many_classes_show_a_running_mean(figures):
    counts = np.array(long_tail_counts(100, 500, 100))
    values = np.arange(100) / 100
    plot_per_class_accuracy({"BCE3S": values}, counts, "unused.png")
    dots, line = figures[0].axes[0].lines[:2]
    assert dots.get_ydata() == pytest.approx(np.arange(100))
    assert line.get_ydata()[5:95] == pytest.approx(np.arange(5, 95))
    assert line.get_ydata()[[0, 99]] == pytest.approx([2.5, 96.5])
    assert line.get_label() == "BCE3S (line: mean over 11 classes)"


def test_running_mean_leaves_out_classes_without_test_image(figures):
    values = np.arange(40) / 100
    values[[3, *range(20, 30)]] = np.nan
    plot_per_class_accuracy({"BCE3S": values}, long_tail_counts(40, 500, 100), "unused.png")
    line = figures[0].axes[0].lines[1].get_ydata()
    assert line[[0, 1, 3]] == pytest.approx([1, (0 + 1 + 2) / 3, (1 + 2 + 4 + 5) / 4])
    assert np.flatnonzero(np.isnan(line)).tolist() == list(range(22, 28))


@pytest.mark.parametrize("plot", ["accuracy", "cosines"])
def test_no_matrix_of_all_classes_is_held(figures, plot):
    counts = np.arange(3000)
    weight = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        if plot == "accuracy":
            plot_per_class_accuracy({"BCE3S": counts / 3000}, counts, "unused.png")
        else:
            plot_classifier_cosines(weight, counts, "unused.png")
        assert tracemalloc.get_traced_memory()[1] < 3000 * 3000 * 4
    finally:
        tracemalloc.stop()


def test_every_method_is_in_the_legend(figures):
    names = [f"method {number}" for number in range(11)]  # more than there are markers, and colours
    plot_per_class_accuracy(accuracies(10, *names), long_tail_counts(10, 500, 100), "unused.png")
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == [*names, "training images"]


def test_calibration_shows_filled_bins_diagonal_and_error(figures):
    curves = {
        "all": CalibrationCurve(np.array([1, 0, 3, 4]), np.array([0, 0, 1, 0.5]), np.array([0.2, 0, 0.6, 0.9])),
        "few": CalibrationCurve(np.array([2, 0, 0, 0]), np.array([0.5, 0, 0, 0]), np.array([0.1, 0, 0, 0])),
    }
    plot_calibration(curves, "unused.png", title="digits")
    axis, shares = figures[0].axes
    diagonal, *lines = axis.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [line.get_xdata().tolist() for line in lines] == [[0.2, 0.6, 0.9], [0.1]]
    assert [line.get_ydata().tolist() for line in lines] == [[0, 1, 0.5], [0.5]]
    assert [patch.get_data().values.tolist() for patch in shares.patches] == [[12.5, 0, 37.5, 50], [100, 0, 0, 0]]
    assert shares.patches[0].get_data().edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert [line.get_color() for line in lines] == ["C0", "C1"]
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["calibrated", "All, 8 images, ECE 37.5%", "Few, 2 images, ECE 40.0%"]
    assert axis.get_title() == "digits"


def test_classifier_cosines_run_from_head_to_tail(figures):
    weight = np.array([(0, 2), (1, 0), (-3, 0)])  # tail, head, medium
    plot_classifier_cosines(weight, [5, 500, 50], "unused.png", title="digits")
    axis, bar = figures[0].axes
    shown = axis.images[0].get_array()
    np.testing.assert_allclose(shown.filled(np.nan), [[np.nan, -1, 0], [-1, np.nan, 0], [0, 0, np.nan]], atol=1e-7)
    assert axis.images[0].get_clim() == (-1, 1)
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["500", "50", "5"]
    left, right = axis.get_xlim()
    bottom, top = axis.get_ylim()
    assert left < right and top < bottom  # the first row on top
    assert [text.get_text() for text in axis.texts] == ["Many", "Medium", "Few"]
    assert bar.get_ylabel() == "cosine of two classifier vectors (grey: of one with itself)"


def test_classifier_cosines_of_many_classes_are_means_over_groups(figures):
    weight = np.random.default_rng(0).normal(size=(450, 6)).astype(np.float32)
    counts = np.random.default_rng(1).permutation(450)
    plot_classifier_cosines(weight, counts, "unused.png")
    axis, bar = figures[0].axes
    unit = (weight / np.linalg.norm(weight, axis=1, keepdims=True))[np.argsort(-counts)]
    cosines = unit @ unit.T
    shown = axis.images[0].get_array()
    assert shown.shape == (200, 200)  # the first 50 groups of 3 classes, the others of 2
    assert shown[0, 1] == pytest.approx(cosines[:3, 3:6].mean(), abs=1e-6)
    assert shown[199, 0] == pytest.approx(cosines[448:, :3].mean(), abs=1e-6)
    assert shown[199, 199] == pytest.approx(cosines[448, 449], abs=1e-6)
    assert shown[0, 0] == pytest.approx((cosines[0, 1] + cosines[0, 2] + cosines[1, 2]) / 3, abs=1e-6)
    assert bar.get_ylabel() == "mean cosine between groups of up to 3 neighbouring classes"


@pytest.fixture
def clusters():
    """Features of 12 classes, 8 images each, around as many directions; class 3 has no image."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.delete(np.arange(13), 3), 8)
    return (10 * np.eye(13)[labels] + rng.normal(size=(len(labels), 13))).astype(np.float32), labels


def test_features_of_chosen_classes_are_drawn_and_named(figures, clusters):
    features, labels = clusters
    names = [f"class {label}" for label in range(13)]
    names[11] = "_" + 30 * "x"
    counts = np.arange(13) * 10
    plot_features(features, labels, counts, names, "unused.png", "digits", max_classes=4, max_images=5)
    legend = figures[0].legends[0]
    drawn = ["120: class 12", "80: class 8", "50: class 5", "0: class 0"]  # places 0, 4, 7, 11 of 12
    assert [text.get_text() for text in legend.get_texts()] == drawn
    assert legend.get_title().get_text() == "training images: class"
    groups = figures[0].axes[0].collections
    assert [len(group.get_offsets()) for group in groups] == [5] * 4
    assert "20 test images" in figures[0].axes[0].get_title()
    assert "at most 5 of each of 4 classes, taken evenly from head to tail of 12" in figures[0].axes[0].get_title()
    clouds = [group.get_offsets() for group in groups]
    centres = np.array([cloud.mean(axis=0) for cloud in clouds])
    inside = max(np.linalg.norm(cloud - cloud.mean(axis=0), axis=1).max() for cloud in clouds)
    between = np.linalg.norm(centres[:, None] - centres, axis=2)[np.triu_indices(4, 1)]
    assert inside < between.min()  # colours follow the clusters


def test_long_class_names_are_cut_and_odd_ones_shown(figures, clusters):
    features, labels = clusters
    names = [30 * "x", "_hidden", "$5", *"abcdefghij"]
    plot_features(features, labels, np.arange(13)[::-1], names, "unused.png", max_classes=12)
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend[:4] == [f"12: {23 * 'x'}…", "11: _hidden", r"10: \$5", "8: b"]


def test_pictures_of_features_repeat_themselves(figures, clusters):
    for _ in range(2):
        plot_features(*clusters, np.arange(13), list("abcdefghijklm"), "unused.png", max_classes=3)
    one, two = (np.concatenate([c.get_offsets() for c in figure.axes[0].collections]) for figure in figures)
    assert (one == two).all()


def test_class_counts_fall_on_a_log_axis_and_empty_classes_have_no_bar(figures):
    plot_class_counts([5, 500, 0, 50, 19], "unused.png", title="digits")
    axis = figures[0].axes[0]
    bars = axis.patches[0].get_data()
    assert bars.values.tolist() == [500, 50, 19, 5, 0]
    assert bars.edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] == bars.baseline > 0  # what is below the baseline is outside the picture
    assert axis.get_ylim()[1] > 500
    assert [(text.get_text(), text.xy[0]) for text in axis.texts] == [("Many", 0), ("Medium", 1), ("Few", 3)]
    assert [line.get_xdata()[0] for line in axis.lines] == [-0.5, 0.5, 1.5]
    assert axis.get_xlabel() == "5 classes, head to tail"
    assert axis.get_title() == "digits"


@pytest.mark.parametrize("counts", [[0, 0], [1], list(range(2000))])
def test_any_class_counts_can_be_drawn(tmp_path, counts):
    plot_class_counts(counts, tmp_path / "counts.png")
    assert (tmp_path / "counts.png").read_bytes().startswith(b"\x89PNG")


def test_panels_by_class_run_from_head_to_tail_on_one_scale(figures):
    panels = {
        "push, BCE form": {"CE": np.array([0.1, 0.9, 0.5]), "BCE": np.array([0.2, np.nan, 0.6])},
        "push, CE form": {"CE": np.array([0.3, 0.4, 0.5]), "BCE": np.array([0.5, 0.5, 0.5])},
    }
    plot_by_class(panels, [10, 500, 50], "unused.png", title="digits")
    upper, lower = figures[0].axes
    for axis, (quantity, runs) in zip((upper, lower), panels.items(), strict=True):
        assert axis.get_ylabel() == quantity
        for line, values in zip(axis.lines, runs.values(), strict=False):
            np.testing.assert_array_equal(line.get_ydata(), values[[1, 2, 0]])
        assert [line.get_color() for line in axis.lines[:2]] == ["C0", "C1"]
        assert [text.get_text() for text in axis.texts] == ["Many", "Medium", "Few"]
        assert axis.get_ylim()[0] < 0.1 and axis.get_ylim()[1] > 0.9
    assert [label.get_text() for label in lower.get_xticklabels()] == ["500", "50", "10"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["CE", "BCE"]
    assert (upper.get_title(), lower.get_title()) == ("digits", "")


def test_panel_of_many_classes_shows_a_running_mean(figures):
    values = np.random.default_rng(0).permutation(100) / 100
    counts = np.random.default_rng(1).permutation(100)
    plot_by_class({"push": {"BCE": values}}, counts, "unused.png")
    (axis,) = figures[0].axes
    ordered = values[np.argsort(-counts)]
    dots, line = axis.lines[:2]
    assert dots.get_linestyle() == "None" and dots.get_ydata().tolist() == ordered.tolist()
    assert line.get_ydata()[[0, 50, 99]] == pytest.approx([ordered[s].mean() for s in np.s_[:6, 45:56, 94:]])
    assert axis.get_xlabel() == "classes, head to tail; line: mean over 11 classes"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["BCE"]


def test_cosines_over_training_are_a_line_a_run(figures):
    curves = {
        "ce-0": {"epoch": [1, 2, 4], "mean": [0.1, 0.0, -0.1], "std": [0.3, 0.2, 0.1]},
        "bce-0": {"epoch": [2], "mean": [0.2], "std": [0.4]},
    }
    plot_cosines_over_training(curves, "unused.png", title="digits")
    assert [axis.get_ylabel() for axis in figures[0].axes] == ["mean cosine", "standard deviation"]
    for axis, name in zip(figures[0].axes, ("mean", "std"), strict=True):
        assert axis.get_xlabel() == "epoch"
        for line, curve in zip(axis.lines, curves.values(), strict=True):
            assert line.get_xdata().tolist() == curve["epoch"] and line.get_ydata().tolist() == curve[name]
        assert [line.get_color() for line in axis.lines] == ["C0", "C1"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["ce-0", "bce-0"]
    assert figures[0].get_suptitle() == "digits"
