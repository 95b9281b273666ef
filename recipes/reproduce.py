"""The rows of a plan over several seeds, beside the paper's figures: resumable, several runs at a time.

    python recipes/reproduce.py --plan recipes/plans/smoke.yaml --jobs 2
    python recipes/reproduce.py --plan recipes/plans/cpu.yaml --num_train_epochs=5 --output_dir runs/short
    python recipes/reproduce.py --plan recipes/plans/smoke.yaml --cards model_cards --texts model_cards/README.md

The same command again goes on where it was stopped: finished runs are not trained again. Settings given as
`--name=value` override those of the plan. With `--cards`, the records are copied there, and the tables in the
`--texts` made from them.
"""

import argparse
import sys
from pathlib import Path

import torch

from bce3s_hf.experiments.plan import read_plan
from bce3s_hf.experiments.plan_records import fill_tables, results, save_records
from bce3s_hf.experiments.plan_runs import run_plan
from bce3s_hf.experiments.progress_table import ProgressTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=Path(__file__).parent / "plans" / "smoke.yaml")
    parser.add_argument("--output_dir", type=Path, help="where the runs go; runs/ and the plan's name")
    parser.add_argument("--jobs", type=int, default=max(1, torch.cuda.device_count()), help="runs at the same time")
    parser.add_argument("--cards", type=Path, help="copy the records into the folder of the plan's name in this one")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="Markdown files whose tables to fill in")
    args, overrides = parser.parse_known_args()
    if overrides and args.cards is not None:
        parser.error(f"--cards publishes the plan as it is; leave {overrides[0]} out")
    plan = read_plan(args.plan, overrides)
    folder = args.output_dir or Path("runs") / args.plan.stem
    table = ProgressTable(terminal=sys.stdout.isatty())
    for progress in run_plan(plan, folder, args.jobs):
        print(table.update(progress), end="", flush=True)
    text = results(plan, folder)
    (folder / "results.md").write_text(text)
    print(f"\n{text}\nSaved in {folder}")
    if args.cards is not None:
        save_records(plan, folder, args.cards / args.plan.stem)
        for file in args.texts:
            file.write_text(fill_tables(file.read_text(), args.plan.parent, args.cards))


if __name__ == "__main__":
    main()
