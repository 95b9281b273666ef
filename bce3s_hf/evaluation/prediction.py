"""Predictions of a trained model for pictures, and their way to the terminal or into a CSV file."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch
from datasets import Dataset, Features, Image
from torch import Tensor

from bce3s_hf.data import eval_transform
from bce3s_hf.data.columns import IMAGE
from bce3s_hf.data.decoding import decode_pil
from bce3s_hf.data.encoded_images import EncodedImages
from bce3s_hf.data.image_files import find_image_files
from bce3s_hf.evaluation.outputs import forward_images
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.text import printable, spreadsheet_cell

NONE_OF_THESE = "none of these"
_PICTURE = Features({IMAGE: Image()})


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one image.

    Args:
        path: File of the image, if it came from one.
        labels: Names of the classes with the largest logits, the largest first.
        scores: Their scores: Sigmoid of the logits, in [0, 1], which do not sum to one (Softmax if joint is "ce").
        answer: The first label, or "none of these" if it was rejected.
        error: Why the image could not be read, if so; there are no labels then, and the answer is empty.
        rejected: Whether the score of the first label is below the threshold of its class.
    """

    path: Path | None
    labels: list[str]
    scores: list[float]
    answer: str
    error: str = ""
    rejected: bool = False


@dataclass
class PredictionCounts:
    """How many images got which answer, how many none of the classes, and how many could not be read."""

    answers: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    unread: int = 0


def find_images(places: Iterable[str | Path]) -> list[Path]:
    """Files to predict: those given, and those in given folders, at any depth, that `walk_folder` takes for images.

    Args:
        places: Files and folders.

    Returns:
        In the given order, those of a folder sorted.

    Raises:
        ValueError: If a file does not exist or is no image, or a folder holds none; names it.
    """
    images = []
    for place in map(Path, places):
        if place.is_dir():
            found = find_image_files(place)
            if not found:
                raise ValueError(f"folder {str(place)!r} holds no image, at any depth, by the ends of the file names")
            images += found
            continue
        if not place.exists():
            raise ValueError(f"image {str(place)!r} does not exist; give files or folders of images")
        try:
            PIL.Image.open(place).close()
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, DecompressionBombError, ...
            raise ValueError(f"{str(place)!r} is no image that can be read: {error}") from error
        images.append(place)
    return images


def predict_images(
    model: BCE3SForImageClassification,
    images: Iterable[Path | PIL.Image.Image],
    *,
    top_k: int = 5,
    batch_size: int = 64,
) -> Iterator[Prediction]:
    """Predict images, one after the other as they are asked for.

    They are read as the images of training were: turned as their EXIF orientation says, on white ground where they are
    transparent, with more than 8 bits a channel by `config.pixel_range`, in colour or grey as the backbone wants.

    Args:
        model: A trained model, put into evaluation mode.
        images: Files or images.
        top_k: Classes to name, at least 1; no more than there are.
        batch_size: Images at a time, at least 1.

    Yields:
        One prediction an image, in their order; for a file that cannot be read one with the `error`.

    Raises:
        ValueError: If `top_k` or `batch_size` is below 1.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return _predict_batches(model.eval(), iter(images), min(top_k, model.config.num_labels), batch_size)


def _predict_batches(
    model: BCE3SForImageClassification, images: Iterator[Path | PIL.Image.Image], top_k: int, batch_size: int
) -> Iterator[Prediction]:
    transform = eval_transform(model.config.data_config)
    while batch := list(islice(images, batch_size)):
        views, errors = _read(batch, transform, model.config.pixel_range)
        top = _top_classes(model, views, top_k)
        for row, image in enumerate(batch):
            path = image if isinstance(image, Path) else None
            if row in errors:
                yield Prediction(path, [], [], "", errors[row])
            else:
                yield _prediction(model, path, *top[row])


def _read(
    images: list[Path | PIL.Image.Image],
    transform: Callable[[PIL.Image.Image], Tensor],
    pixel_range: list[float] | None,
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """By position, the images as the model wants them, and what is wrong with those that cannot be read."""
    sources, views, errors = {}, {}, {}
    for position, image in enumerate(images):
        try:
            sources[position] = _source(image)
        except OSError as error:
            errors[position] = _why_unread(error)
    dataset = Dataset.from_dict({IMAGE: list(sources.values())}, features=_PICTURE)
    encoded = EncodedImages(dataset, IMAGE, pixel_range)
    for row, position in enumerate(sources):
        try:
            views[position] = transform(encoded.decode(row, decode_pil))
        except ValueError as error:
            errors[position] = _why_unread(error.__cause__ or error)
    return views, errors


def _why_unread(error: BaseException) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):  # whose text names an object in memory
        return "no image that PIL knows"
    return str(error) or type(error).__name__


def _source(image: Path | PIL.Image.Image) -> dict[str, bytes | None] | PIL.Image.Image:
    """What `datasets` decodes; of a file the bytes, since it would take some paths for addresses."""
    if isinstance(image, PIL.Image.Image):
        return PIL.ImageOps.exif_transpose(image)
    return {"bytes": Path(image).read_bytes(), "path": None}


def _top_classes(
    model: BCE3SForImageClassification, views: dict[int, Tensor], top_k: int
) -> dict[int, tuple[list[int], list[float]]]:
    """By position of the image, its classes with the largest logits, and their scores."""
    if not views:
        return {}
    logits = forward_images(model, torch.stack(list(views.values())).to(model.device)).logits
    classes, scores = model.top_classes(logits, top_k)
    return dict(zip(views, zip(classes.tolist(), scores.tolist(), strict=True), strict=True))


def _prediction(
    model: BCE3SForImageClassification, path: Path | None, classes: list[int], scores: list[float]
) -> Prediction:
    thresholds, names = model.config.score_thresholds, model.config.id2label
    labels = [names[label] for label in classes]
    rejected = thresholds is not None and scores[0] < thresholds[classes[0]]
    return Prediction(path, labels, scores, NONE_OF_THESE if rejected else labels[0], rejected=rejected)


def prediction_text(prediction: Prediction) -> str:
    """Lines for a terminal: file and answer, then the classes with their scores."""
    if prediction.error:
        return printable(f"{prediction.path}: cannot be read: {prediction.error}")
    lines = [f"{prediction.path}: {prediction.answer}"]
    lines += [f"  {score:.3f} {label}" for label, score in zip(prediction.labels, prediction.scores, strict=True)]
    return "\n".join(map(printable, lines))


def check_csv(file: Path) -> None:
    """Make the folder of a CSV file.

    Raises:
        ValueError: If its name does not end in .csv, or it cannot be written.
    """
    if file.suffix != ".csv":
        raise ValueError(f"output_csv must be a name that ends in .csv, got {str(file)!r}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise ValueError(f"output_csv {str(file)!r} cannot be written: {error}") from error


def write_csv(predictions: Iterable[Prediction], file: Path, top_k: int) -> PredictionCounts:
    """Write predictions as they come: path, answer, label_1, score_1, ..., and error for files that cannot be read.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        predictions: What to write.
        file: Where to; replaced.
        top_k: How many labels a row has at most.

    Returns:
        What they were.
    """
    counts = PredictionCounts()
    ranks = range(1, top_k + 1)
    columns = ["path", "answer", *(name for rank in ranks for name in (f"label_{rank}", f"score_{rank}")), "error"]
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for prediction in predictions:
            row = {"path": prediction.path, "answer": prediction.answer, "error": prediction.error}
            row |= {f"label_{rank}": label for rank, label in enumerate(prediction.labels, 1)}
            row = {name: spreadsheet_cell(str(value)) for name, value in row.items()}
            row |= {f"score_{rank}": f"{score:.6g}" for rank, score in enumerate(prediction.scores, 1)}
            writer.writerow(row)
            if prediction.error:
                counts.unread += 1
            elif prediction.rejected:
                counts.rejected += 1
            else:
                counts.answers[prediction.answer] += 1
    return counts


def counts_text(counts: PredictionCounts) -> str:
    """Lines for a terminal: what `write_csv` returned, and the ten classes that were answered most often."""
    answered = counts.answers.total()
    images = answered + counts.rejected + counts.unread
    lines = [
        f"{images} images: {answered} answered, {counts.rejected} {NONE_OF_THESE}, {counts.unread} that cannot be read"
    ]
    lines += [f"  {count} {printable(answer)}" for answer, count in counts.answers.most_common(10)]
    return "\n".join(lines)
