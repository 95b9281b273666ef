"""What is in these pictures? The five classes with the largest logits, with their scores, and an answer.

    python recipes/predict.py picture.jpg another.png [--checkpoint FOLDER_OR_HUB_ID] [--top_k 5]
    python recipes/predict.py FOLDER --output_csv predictions.csv

A score is the Sigmoid of one class, in [0, 1]; the scores of an image do not sum to one. The answer is the first
class, or "none of these" if its score is below the threshold of its class, where the checkpoint has thresholds
(`recipes/fit_thresholds.py`). Of a folder, or with `--output_csv`, the predictions go into a CSV file, where an image
that cannot be read is a row with its `error`.
"""

import argparse
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import tqdm

from bce3s_hf.evaluation.prediction import (
    check_csv,
    counts_text,
    find_images,
    predict_images,
    prediction_text,
    write_csv,
)
from bce3s_hf.experiments.run import load_checkpoint
from bce3s_hf.text import printable

CHECKPOINT = Path(__file__).parents[1] / "model_cards" / "cifar100_lt_resnet32"
CSV_FILE = Path("runs/predictions.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="file, or folder of images at any depth")
    parser.add_argument("--checkpoint", default=str(CHECKPOINT), help="folder, or id on the Hub")
    parser.add_argument("--top_k", type=int, default=5, help="classes to name")
    parser.add_argument("--output_csv", type=Path, help=f"write there; for a folder {CSV_FILE} if left out")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    args = parser.parse_args()
    images = find_images(args.images)
    file = args.output_csv
    if file is None and any(place.is_dir() for place in args.images):
        file = CSV_FILE
    model = load_checkpoint(args.checkpoint).to(PartialState().device)
    if file is not None:
        check_csv(file)
    predictions = predict_images(model, images, top_k=args.top_k, batch_size=args.batch_size)
    if file is None:
        for prediction in predictions:
            print(prediction_text(prediction))
        return
    counts = write_csv(
        tqdm(predictions, total=len(images), desc="images"), file, min(args.top_k, model.config.num_labels)
    )
    print(f"{counts_text(counts)}\n\nSaved in {printable(file)}")


if __name__ == "__main__":
    main()
