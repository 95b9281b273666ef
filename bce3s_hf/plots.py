"""Pictures of long-tailed results; needs the extra `plots`."""

import os

import numpy as np

from bce3s_hf.metrics import shot_groups

_MARKERS = "osD^vP*X"


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
    from matplotlib.figure import Figure  # an extra, and without pyplot no global state or display is touched

    order = np.argsort(-np.asarray(class_counts), kind="stable")
    counts = np.asarray(class_counts)[order]
    positions = np.arange(len(order))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    tail = axis.twinx()
    edges = np.arange(len(order) + 1) - 0.5
    tail.stairs(counts, edges, baseline=0.8, fill=True, color="#f7ecd6", label="training images")
    tail.set_yscale("log")
    tail.set_ylabel("training images (log scale)")
    axis.set_zorder(tail.get_zorder() + 1)
    axis.patch.set_visible(False)
    crowded = len(order) > 30
    window = max(1, len(order) // 10)
    for number, (name, values) in enumerate(accuracies.items()):
        colour, marker = f"C{number % 10}", _MARKERS[number % len(_MARKERS)]
        percent = 100 * np.asarray(values)[order]
        label = f"{name} (line: mean over {window} classes)" if crowded else name
        style = {"marker": marker, "markersize": 3 if crowded else 6, "color": colour}
        if crowded:
            near = np.abs(positions[:, None] - positions) <= window // 2
            axis.plot(positions, percent, linestyle="", alpha=0.35, **style)
            percent = np.nanmean(np.where(near, percent, np.nan), axis=1)
            style["marker"] = ""
        axis.plot(positions, percent, label=label, **style)
    for name, mask in shot_groups(counts).items():
        members = positions[mask]
        if len(members):
            axis.axvline(members[0] - 0.5, color="#bbbbbb", linewidth=0.8)
            axis.text(members.mean(), 104, name.capitalize(), ha="center", color="#555555")
    axis.set_xlim(-0.5, len(order) - 0.5)
    axis.set_ylim(0, 110)
    axis.set_yticks(range(0, 101, 20))
    axis.set_xlabel("classes, head to tail" if crowded else "training images of the class, head to tail")
    if not crowded:
        axis.set_xticks(positions, counts)
    axis.set_ylabel("test accuracy (%)")
    axis.set_title(title)
    handles = [*axis.get_legend_handles_labels()[0], *tail.get_legend_handles_labels()[0]]
    axis.legend(handles=handles, loc="lower left", framealpha=0.9)
    figure.savefig(path, dpi=150)
