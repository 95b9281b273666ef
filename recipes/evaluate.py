"""Evaluate a checkpoint, without and with averaging over a horizontal flip: accuracy, calibration, geometry.

    python recipes/evaluate.py --checkpoint runs/digits_lt/bce3s --dataset digits
    accelerate launch recipes/evaluate.py --checkpoint FOLDER_OR_HUB_ID --dataset cifar100 --output_dir runs/mine

Takes the data settings of training; of them only those count that choose the test images. Many / Medium / Few go by
the training counts in the checkpoint. Prints two tables and saves `evaluation.json` and four pictures.
"""

from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from bce3s_hf.evaluation.evaluate import (
    FLIP,
    NO_FLIP,
    EvaluationArguments,
    collect_outputs,
    evaluate,
    evaluation_dataset,
    evaluation_tables,
    save_evaluation,
)
from bce3s_hf.evaluation.plots import plot_calibration, plot_classifier_cosines, plot_features, plot_per_class_accuracy
from bce3s_hf.experiments.run import load_checkpoint
from bce3s_hf.experiments.settings import CheckpointArguments, DataArguments, parse_arguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.text import printable


def main() -> None:
    config = Path(__file__).with_name("evaluate.yaml")
    classes = (CheckpointArguments, EvaluationArguments, DataArguments)
    chosen, args, data_args = parse_arguments(config, classes=classes)
    model = load_checkpoint(chosen.checkpoint)
    splits = load_splits(data_args)
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
            counts = evaluation.per_class["training_images"]
            accuracies = {name.replace("_", " "): evaluation.per_class[f"accuracy_{name}"] for name in (NO_FLIP, FLIP)}
            plot_per_class_accuracy(accuracies, counts, folder / "per_class_accuracy.png", title)
            plot_calibration(evaluation.curves[NO_FLIP], folder / "calibration.png", title)
            weight = model.classifier.weight.detach().cpu().numpy()
            plot_classifier_cosines(weight, counts, folder / "classifier_cosines.png", title)
            features, labels = outputs.features.numpy(), outputs.labels.numpy()
            plot_features(features, labels, counts, splits.class_names, folder / "tsne.png", title)
        print(f"\nSaved in {folder}")


if __name__ == "__main__":
    main()
