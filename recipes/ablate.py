"""Any part of BCE3S on or off: a grid of settings over several seeds, one Markdown and one JSON table.

    python recipes/ablate.py --plan recipes/ablate_digits.yaml --jobs 2
    python recipes/ablate.py --plan my_plan.yaml --output_dir runs/mine --num_train_epochs=5

Settings given as `--name=value` override those of the plan. The tables hold mean and standard deviation over the
seeds, of the last epoch and without flip averaging.
"""

import argparse
import json
import time
from pathlib import Path

from accelerate import PartialState

from bce3s_hf.ablation import ablation_table, read_plan, run_plan, summarise
from bce3s_hf.provenance import command
from bce3s_hf.records import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_name("ablate_digits.yaml"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    args, overrides = parser.parse_known_args()
    plan = read_plan(args.plan, overrides)
    start, metrics = time.perf_counter(), {}
    for number, seed, result in run_plan(plan, args.output_dir, args.jobs):
        metrics[number, seed] = result
        row = ", ".join(f"{name} {value}" for name, value in plan.rows[number].items())
        total = len(plan.rows) * len(plan.seeds)
        print(f"{len(metrics)}/{total} seed {seed}, {row}: {100 * result['accuracy']:.2f}", flush=True)
    rows = summarise(plan, metrics)
    table = ablation_table(rows)
    record = {
        "command": command(),
        "protocol": "last epoch, no flip averaging; mean and sample standard deviation over the seeds",
        "settings": plan.settings,
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "jobs": args.jobs,
        **environment(1, PartialState().device),
    }
    (args.output_dir / "ablation.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.output_dir / "ablation.md").write_text(table + "\n")
    print(f"\n{table}\n\nSaved in {args.output_dir}, {record['seconds']:.0f} s")


if __name__ == "__main__":
    main()
