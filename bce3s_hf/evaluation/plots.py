"""Pictures of long-tailed results; needs the extra `plots`."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bce3s_hf.evaluation.metrics import CalibrationCurve, shot_groups
from bce3s_hf.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X"
_MATRIX_ROWS = 200


class _HeadToTail:
    """Classes in the order of a picture: from the most training images to the fewest.

    Attributes:
        order: Class at each place, int (K,).
        counts: Training images at each place, (K,).
        crowded: Whether the classes are more than 30: they then have dots and a running mean, and no ticks.
        window: Classes of that mean: about a tenth, and odd, so that as many lie on either side.
    """

    def __init__(self, class_counts: np.ndarray) -> None:
        self.order = np.argsort(-np.asarray(class_counts), kind="stable")
        self.counts = np.asarray(class_counts)[self.order]
        self.crowded = len(self.order) > 30
        self.window = len(self.order) // 10 // 2 * 2 + 1

    def draw(self, axis: "Axes", values: np.ndarray, label: str, number: int) -> None:
        """Draw values (K,) of the classes, the line of this number."""
        values, style = np.asarray(values)[self.order], _style(number)
        if self.crowded:
            axis.plot(values, linestyle="", markersize=3, alpha=0.35, **style)
            values, style["marker"] = _running_mean(values, self.window), ""
        axis.plot(values, label=label, **style)

    def draw_counts(self, axis: "Axes", **style: Any) -> None:
        """Draw the training images as bars on a log axis; a class without has none."""
        edges = np.arange(len(self.counts) + 1) - 0.5
        axis.stairs(self.counts, edges, baseline=0.8, fill=True, **style)
        axis.set_yscale("log")
        axis.set_ylabel("training images (log scale)")

    def groups(self) -> Iterator[tuple[str, float, float]]:
        """Name, left edge and middle of Many, Medium and Few, those that have classes."""
        for name, mask in shot_groups(self.counts).items():
            places = np.flatnonzero(mask)
            if len(places):
                yield name.capitalize(), places[0] - 0.5, places.mean()

    def mark_groups(self, axis: "Axes", height: float, line: str = "#bbbbbb", text: str = "#555555") -> None:
        """Separate and name the groups, the names at a share of the axis's height."""
        for name, edge, middle in self.groups():
            axis.axvline(edge, color=line, linewidth=0.8)
            axis.annotate(name, (middle, height), xycoords=("data", "axes fraction"), ha="center", color=text)

    def label_axis(self, axis: "Axes", mean: str = "") -> None:
        """Set range, ticks and label of the horizontal axis; `mean` says what a line of many classes is."""
        axis.set_xlim(-0.5, len(self.order) - 0.5)
        axis.set_xlabel(f"classes, head to tail{mean}")
        if not self.crowded:
            axis.set_xticks(range(len(self.counts)), self.counts)
            axis.set_xlabel("training images of the class, head to tail")


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the values, nan left out, of up to `window` (odd) neighbours; nan where there are none."""
    known = ~np.isnan(values)
    sums = np.convolve(np.where(known, values, 0), np.ones(window), "same")
    counts = np.convolve(known, np.ones(window), "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _style(number: int) -> dict[str, str]:
    return {"marker": _MARKERS[number % len(_MARKERS)], "color": f"C{number % 10}"}


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # an extra, and without pyplot no global state or display is touched

    return Figure(figsize=(width, height), layout="constrained")


def _shown(text: str) -> str:
    """Text of a picture as it is: no formula for matplotlib, and no character that no font has."""
    return printable(text).replace("$", r"\$")


def plot_per_class_accuracy(
    accuracies: dict[str, np.ndarray], class_counts: np.ndarray, path: str | os.PathLike, title: str = ""
) -> None:
    """Draw per-class accuracy against training count, head to tail from left to right, and save it.

    Up to 30 classes get their own marks; of more, each method also shows a running mean over a tenth of the classes.

    Args:
        accuracies: By method, (K,) in [0, 1].
        class_counts: Training images of each class, (K,).
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    classes = _HeadToTail(class_counts)
    figure = _figure(9, 4.5)
    axis = figure.subplots()
    tail = axis.twinx()
    classes.draw_counts(tail, color="#f7ecd6", label="training images")
    axis.set_zorder(tail.get_zorder() + 1)
    axis.patch.set_visible(False)
    for number, (name, values) in enumerate(accuracies.items()):
        label = f"{name} (line: mean over {classes.window} classes)" if classes.crowded else name
        classes.draw(axis, 100 * np.asarray(values), label, number)
    classes.mark_groups(axis, height=104 / 110)
    classes.label_axis(axis)
    axis.set_ylim(0, 110)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("test accuracy (%)")
    axis.set_title(_shown(title))
    handles = [*axis.get_legend_handles_labels()[0], *tail.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)  # inside, it would hide points
    figure.savefig(path, dpi=150)


def plot_class_counts(class_counts: np.ndarray, path: str | os.PathLike, title: str = "") -> None:
    """Draw the training images of each class, head to tail from left to right on a log axis, and save it.

    A class without training images has no bar.

    Args:
        class_counts: Training images of each class, (K,).
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    classes = _HeadToTail(class_counts)
    figure = _figure(6, 2.6)
    axis = figure.subplots()
    classes.draw_counts(axis, color="#d9a441")
    axis.set_ylim(0.8, 2.5 * max(classes.counts[0], 1))  # room for the names of the groups
    classes.mark_groups(axis, height=0.9)
    classes.label_axis(axis)
    axis.set_xticks([])
    axis.set_xlabel(f"{len(classes.counts)} classes, head to tail")
    axis.set_title(_shown(title))
    figure.savefig(path, dpi=150)


def plot_calibration(curves: dict[str, CalibrationCurve], path: str | os.PathLike, title: str = "") -> None:
    """Draw a reliability diagram, accuracy against confidence, with the share of images in each bin, and save it.

    Args:
        curves: By name, such as "all", "many", "medium", "few".
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    figure = _figure(6.5, 7)
    axis, shares = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", label="calibrated")
    for number, (name, curve) in enumerate(curves.items()):
        filled = curve.counts > 0
        style = _style(number)
        label = f"{name.capitalize()}, {curve.counts.sum()} images, ECE {100 * curve.error:.1f}%"
        axis.plot(curve.confidence[filled], curve.accuracy[filled], label=label, **style)
        edges = np.linspace(0, 1, len(curve.counts) + 1)
        shares.stairs(100 * curve.counts / curve.counts.sum(), edges, color=style["color"], linewidth=1.5)
    axis.set_ylabel("accuracy")
    axis.set_ylim(-0.02, 1.02)
    axis.set_title(_shown(title))
    figure.legend(loc="outside lower center", ncols=2)
    shares.set_xlim(-0.02, 1.02)
    shares.set_ylim(bottom=0)
    shares.set_ylabel("images (%)")
    shares.set_xlabel("confidence: score of the predicted class")
    figure.savefig(path, dpi=150)


def plot_classifier_cosines(
    weight: np.ndarray, class_counts: np.ndarray, path: str | os.PathLike, title: str = ""
) -> None:
    """Draw the cosines between classifier vectors, head to tail from left to right and from top to bottom; save it.

    Of more than 200 classes, a cell is the mean over the pairs of two groups of neighbouring classes.

    Args:
        weight: Classifier vectors, shape (K, D), any length.
        class_counts: Training images of each class, (K,).
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    from matplotlib import colormaps
    from sklearn.preprocessing import normalize

    classes = _HeadToTail(class_counts)
    count = len(classes.order)
    neighbours = np.array_split(classes.order, min(count, _MATRIX_ROWS))
    cosines = _mean_cosines(normalize(weight), neighbours)
    limit = np.nanmax(np.abs(cosines))
    figure = _figure(7.5, 6.5)
    axis = figure.subplots()
    colours = colormaps["RdBu_r"].with_extremes(bad="#999999")
    edges = (-0.5, count - 0.5, count - 0.5, -0.5)
    image = axis.imshow(cosines, cmap=colours, vmin=-limit, vmax=limit, extent=edges, interpolation="nearest")
    meaning = "cosine of two classifier vectors (grey: of one with itself)"
    if len(neighbours) < count:
        meaning = f"mean cosine between groups of up to {len(neighbours[0])} neighbouring classes"
    figure.colorbar(image, ax=axis).set_label(meaning)
    classes.mark_groups(axis, height=1.01, line="black", text="black")
    for _, edge, _ in classes.groups():
        axis.axhline(edge, color="black", linewidth=0.8)
    classes.label_axis(axis)
    if not classes.crowded:
        axis.set_yticks(range(count), classes.counts)
        axis.tick_params(axis="x", rotation=90 if count > 12 else 0)
    axis.set_ylabel(axis.get_xlabel())
    axis.set_title(_shown(title), pad=22)
    figure.savefig(path, dpi=150)


def _mean_cosines(unit: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Mean cosine of the pairs of different rows of two groups, shape (G, G); nan for one row with itself.

    A mean of dot products is the dot product of the means, so no K x K matrix is needed.
    """
    means = np.stack([unit[group].mean(axis=0) for group in groups])
    cosines = means @ means.T
    for index, group in enumerate(groups):
        size = len(group)
        pairs = size * (size - 1)
        cosines[index, index] = (size**2 * cosines[index, index] - size) / pairs if pairs else np.nan
    return cosines


def plot_features(
    features: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray,
    class_names: list[str],
    path: str | os.PathLike,
    title: str = "",
    *,
    max_classes: int = 10,
    max_images: int = 50,
) -> None:
    """Draw the features of some classes by t-SNE of their cosine distances, and save it.

    The classes lie evenly from head to tail among those that have images; of each, its first images are drawn. The
    picture says what was drawn. Distances between clusters, and their sizes, mean little in a t-SNE.

    Args:
        features: x, shape (N, D).
        labels: Class of each, int (N,).
        class_counts: Training images of each class, (K,).
        class_names: Of the K classes.
        path: Where to save; the ending chooses the format.
        title: Above the picture.
        max_classes: Classes to draw at most.
        max_images: Images of each class to draw at most.
    """
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    present = np.unique(labels)
    order = present[_HeadToTail(np.asarray(class_counts)[present]).order]
    places = np.linspace(0, len(order) - 1, min(max_classes, len(order)))
    chosen = order[places.round().astype(int)]
    drawn = np.concatenate([np.flatnonzero(labels == label)[:max_images] for label in chosen])
    perplexity = min(30, (len(drawn) - 1) / 3)
    points = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(features[drawn])
    figure = _figure(9, 6.5)
    axis = figure.subplots()
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(chosen)))
    for number, label in enumerate(chosen):
        style = {**_style(number), "color": colours[number]}
        name = class_names[label] if len(class_names[label]) <= 24 else f"{class_names[label][:23]}…"
        style["label"] = _shown(f"{class_counts[label]}: {name}")
        axis.scatter(*points[labels[drawn] == label].T, s=22, alpha=0.8, linewidths=0, **style)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(
        f"{_shown(title)}\nt-SNE of features, cosine distance, perplexity {perplexity:.3g}: {len(drawn)} test "
        f"images,\nat most {max_images} of each of {len(chosen)} classes, "
        f"taken evenly from head to tail of {len(order)}",
        fontsize=10,
    )
    figure.legend(loc="outside right center", title="training images: class", fontsize=9)
    figure.savefig(path, dpi=150)


def plot_by_class(
    panels: dict[str, dict[str, np.ndarray]], class_counts: np.ndarray, path: str | os.PathLike, title: str = ""
) -> None:
    """Draw values of each class, head to tail from left to right, panels of one scale below each other; save it.

    Of more than 30 classes, each run has dots, and a line of their running mean over a tenth of the classes.

    Args:
        panels: By name of the quantity, which stands at the axis: by run, the same ones in each panel, (K,).
        class_counts: Training images of each class, (K,).
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    classes = _HeadToTail(class_counts)
    figure = _figure(9, 1.5 + 3.2 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (quantity, values_by_run) in zip(axes, panels.items(), strict=True):
        for number, (run, values) in enumerate(values_by_run.items()):
            classes.draw(axis, values, run, number)
        classes.mark_groups(axis, height=1.01)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_ylabel(quantity)
    classes.label_axis(axis, f"; line: mean over {classes.window} classes")
    axes[0].set_title(_shown(title), pad=22)
    figure.legend(handles=axis.get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)


def plot_cosines_over_training(
    curves: dict[str, dict[str, list[float]]], path: str | os.PathLike, title: str = ""
) -> None:
    """Draw mean and standard deviation of the cosines between classifier vectors, epoch by epoch, and save it.

    Args:
        curves: By run, `epoch`, and of all pairs of classes then `mean` and `std` of their cosines, C values each.
        path: Where to save; the ending chooses the format.
        title: Above the picture.
    """
    figure = _figure(9, 4)
    axes = figure.subplots(1, 2)
    for axis, name, label in zip(axes, ("mean", "std"), ("mean cosine", "standard deviation"), strict=True):
        for number, (run, curve) in enumerate(curves.items()):
            axis.plot(curve["epoch"], curve[name], label=run, markersize=4, **_style(number))
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
    figure.suptitle(_shown(title))
    figure.legend(handles=axis.get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)
