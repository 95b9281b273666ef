"""Who moves each classifier vector, how the classifier spreads and how compact the classes become, over a training.

    python recipes/reproduce.py --plan recipes/plans/cpu.yaml
    python recipes/mechanism.py --runs runs/cpu/ce-joint-0 runs/cpu/bce-joint-0 [--output_dir runs/mechanism]

Each run's checkpoints are measured by both forms of the joint loss, whichever it was trained by, on all training
images as they are and on the test images. Saves `mechanism.json`, with what each figure means, and three pictures:
`push_shares.png` and `compactness.png` by class, of each run's last checkpoint, `classifier_cosines.png` over the
epochs. Prints a table. A run that is still training can be looked at, too. Needs the extra `plots`.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bce3s_hf.evaluation.plots import plot_by_class, plot_cosines_over_training
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.experiments.mechanism import DEFINITIONS, measure_run, mechanism_table, open_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs of one plan")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/mechanism"), help="where results go")
    parser.add_argument("--batch_size", type=int, default=256, help="images a step")
    args = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error('the pictures need matplotlib: pip install "bce3s_hf[plots]"')
    runs = open_runs(args.runs)
    folder = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    records = {run.name: measure_run(run, batch_size=args.batch_size) for run in runs}
    content = {**provenance(), "definitions": DEFINITIONS, "runs": records}
    (folder / "mechanism.json").write_text(json.dumps(content, indent=1) + "\n")

    counts = np.array(runs[0].class_counts)
    values = {
        quantity: {name: np.array(record["per_class"][quantity], float) for name, record in records.items()}
        for quantity in ("bce_push", "ce_push", "test_compactness")
    }
    panels = {"push share, BCE form": values["bce_push"], "push share, CE form": values["ce_push"]}
    title = "Share of other classes' images in the gradient of each classifier vector"
    plot_by_class(panels, counts, folder / "push_shares.png", title)
    panels = {"mean cos(feature, class mean)": values["test_compactness"]}
    plot_by_class(panels, counts, folder / "compactness.png", "Compactness of the classes, test images")
    curves = {
        name: {
            "epoch": [point["epoch"] for point in record["checkpoints"]],
            "mean": [point["classifier_cosine"]["mean"] for point in record["checkpoints"]],
            "std": [point["classifier_cosine"]["std"] for point in record["checkpoints"]],
        }
        for name, record in records.items()
    }
    plot_cosines_over_training(curves, folder / "classifier_cosines.png", "Cosines of all pairs of classifier vectors")
    print(f"\n{mechanism_table(records)}\n\nSaved in {folder}")


if __name__ == "__main__":
    main()
