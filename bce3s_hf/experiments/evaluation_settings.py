"""Settings of the recipes that evaluate a trained model, and that fit its thresholds."""

from dataclasses import dataclass, field
from importlib.util import find_spec

from bce3s_hf.evaluation.thresholds import check_fit_settings


@dataclass
class EvaluationArguments:
    """How to evaluate a checkpoint, and where the figures go."""

    output_dir: str = field(metadata={"help": "Folder for evaluation.json and pictures."})
    batch_size: int = field(default=256, metadata={"help": "Images a step and process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read images, for each process."})
    plots: bool = field(default=True, metadata={"help": "Draw pictures; needs the extra `plots`."})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if self.plots and find_spec("matplotlib") is None:
            raise ValueError('plots needs matplotlib: pip install "bce3s_hf[plots]", or give --plots False')


@dataclass
class ThresholdArguments:
    """Which images were held out, and how many of them keep their answer.

    Raises:
        ValueError: Naming the setting that is out of its range.
    """

    validation_fraction: float = field(default=0.0, metadata={"help": "That of the training; not 0."})
    seed: int = field(default=42, metadata={"help": "That of the training."})
    keep: float = field(
        default=0.95, metadata={"help": "Share of the images that are called k which is still called k, in (0, 1)."}
    )
    min_images: int = field(
        default=20, metadata={"help": "Held-out images that must be predicted as a class for a threshold of its own."}
    )
    outside: str | None = field(
        default=None, metadata={"help": "Dataset whose test images (all, without a test split) are of no class."}
    )
    batch_size: int = field(default=256, metadata={"help": "Images a step and process."})

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction}: thresholds are fitted to "
                "images that the training held out, since scores of images trained on are too high; train with "
                "validation_fraction, and give the same here"
            )
        check_fit_settings(self.keep, self.min_images)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
