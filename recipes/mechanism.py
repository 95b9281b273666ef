"""Who moves each classifier vector, how the classifier spreads and how compact the classes become, over a training.

    python recipes/reproduce.py --plan recipes/plans/cpu.yaml
    python recipes/mechanism.py --runs runs/cpu/ce-joint-0 runs/cpu/bce-joint-0 [--output_dir runs/mechanism]

Each run's checkpoints are measured by both forms of the joint loss, whichever it was trained by, on all training
images as they are and on the test images. Saves `mechanism.json`, with what each figure means, and three pictures:
`push_shares.png` and `compactness.png` by class, of each run's last checkpoint, `classifier_cosines.png` over the
epochs. Prints a table. A run that is still training can be looked at, too. Needs the extra `plots`.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from bce3s_hf.evaluation.gradient_shares import mechanism_table
from bce3s_hf.experiments.mechanism import draw_mechanism, measure_run, open_runs, save_mechanism


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs of one plan")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/mechanism"), help="where results go")
    parser.add_argument("--batch_size", type=int, default=256, help="images a step")
    args = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error('the pictures need matplotlib: pip install "bce3s_hf[plots]"')
    runs = open_runs(args.runs)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    records = {run.name: measure_run(run, batch_size=args.batch_size) for run in runs}
    save_mechanism(records, args.output_dir)
    draw_mechanism(records, args.output_dir)
    print(f"\n{mechanism_table(records)}\n\nSaved in {args.output_dir}")


if __name__ == "__main__":
    main()
