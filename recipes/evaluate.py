"""Evaluate a checkpoint, without and with averaging over a horizontal flip: accuracy, calibration, geometry.

    python recipes/evaluate.py --checkpoint runs/digits_lt/bce3s --dataset digits
    accelerate launch recipes/evaluate.py --checkpoint FOLDER_OR_HUB_ID --dataset cifar100 --output_dir runs/mine

Takes the data settings of training; of them only those count that choose the test images. Many / Medium / Few go by
the training counts in the checkpoint. Prints two tables and saves `evaluation.json` and four pictures.
"""

from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from bce3s_hf.evaluation.model_evaluation import (
    draw_evaluation,
    evaluate,
    evaluation_dataset,
    evaluation_tables,
    save_evaluation,
)
from bce3s_hf.evaluation.outputs import collect_outputs
from bce3s_hf.experiments.evaluation_settings import EvaluationArguments
from bce3s_hf.experiments.run import check_test_share, load_checkpoint
from bce3s_hf.experiments.settings import CheckpointArguments, DataArguments, parse_arguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.text import printable


def main() -> None:
    config = Path(__file__).with_name("evaluate.yaml")
    classes = (CheckpointArguments, EvaluationArguments, DataArguments)
    chosen, args, data_args = parse_arguments(config, classes=classes)
    model = load_checkpoint(chosen.checkpoint)
    splits = load_splits(data_args)
    check_test_share(chosen.checkpoint, splits, data_args)
    test = evaluation_dataset(model, splits.test)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = collect_outputs(model, test, batch_size=args.batch_size, num_workers=args.num_workers, flip=True)
    if PartialState().is_main_process:
        evaluation = evaluate(outputs, model)
        title = f"{Path(chosen.checkpoint).name} on {Path(data_args.dataset).name}"
        context = {"checkpoint": chosen.checkpoint, "data": asdict(data_args), "class_names": splits.class_names}
        save_evaluation(evaluation, folder / "evaluation.json", **context)
        print(f"\n{printable(title)}, {len(test)} test images\n\n{evaluation_tables(evaluation)}")
        if args.plots:
            names = splits.class_names
            draw_evaluation(evaluation, outputs, model, folder, class_names=names, title=title)
        print(f"\nSaved in {folder}")


if __name__ == "__main__":
    main()
