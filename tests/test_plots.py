"""Pictures: written, ordered from head to tail, one line a method."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

from bce3s_hf.data import long_tail_counts  # noqa: E402
from bce3s_hf.plots import plot_per_class_accuracy  # noqa: E402


def accuracies(num_classes, *names):
    rng = np.random.default_rng(0)
    falling = np.linspace(0.95, 0.2, num_classes)
    return {name: np.clip(falling + rng.normal(0, 0.05, num_classes), 0, 1) for name in names}


@pytest.fixture
def figures(monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: saved.append(figure))
    return saved


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_png_is_written(tmp_path, num_classes):
    path = tmp_path / "accuracy.png"
    counts = np.array(long_tail_counts(num_classes, 500, 100))
    plot_per_class_accuracy(accuracies(num_classes, "CE joint", "BCE3S"), counts, path, title="CIFAR-LT")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


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


@pytest.mark.parametrize(
    "methods",
    [
        1,
        4,
        5,
    ],
)
def test_every_method_is_in_the_legend(figures, methods):
    names = [f"method {number}" for number in range(methods)]
    plot_per_class_accuracy(accuracies(10, *names), long_tail_counts(10, 500, 100), "unused.png")
    legend = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert legend == [*names, "training images"]
