"""Settings of the benchmark."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

SIZES = ("small", "full")
WITHOUT_DATA = (
    "losses",
    "operators",
    "uniformity",
    "step",
    "trainer",
    "small_images",
    "precision",
    "growth",
    "startup",
)
WITH_IMAGES = ("photographs",)


@dataclass
class BenchmarkArguments:
    """What to measure, on what, and how often.

    Raises:
        ValueError: If a section is unknown or lacks its images, or a value is out of its range.
    """

    sections: list[str] | None = field(
        default=None,
        metadata={"help": f"Of {', '.join(WITHOUT_DATA + WITH_IMAGES)}; all for which there is data if left out."},
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda or cuda:1; the CPU, and then CUDA where there is one, if left out."}
    )
    sizes: str = field(
        default="full", metadata={"help": "full, or small: seconds, to try it.", "choices": list(SIZES)}
    )
    rounds: int = field(
        default=15,
        metadata={"help": "Times that the candidates of a comparison take turns; 3 where a round takes long."},
    )
    images: str | None = field(default=None, metadata={"help": "Folder of photographs, JPEG, for that section."})
    cifar: str | None = field(
        default=None,
        metadata={"help": "'cifar10', 'cifar100' or a folder, for small_images; random pictures if left out."},
    )
    compile: bool = field(default=False, metadata={"help": "torch.compile in precision as well, which takes minutes."})
    digits_recipe: str = field(
        default="recipes/train_digits_lt.py", metadata={"help": "Whose first step startup waits for."}
    )
    output: str = field(default="runs/benchmark.json", metadata={"help": "File for the figures."})

    def __post_init__(self) -> None:
        if self.sections is None:
            self.sections = [*WITHOUT_DATA, *(WITH_IMAGES if self.images else ())]
        unknown = [name for name in self.sections if name not in WITHOUT_DATA + WITH_IMAGES]
        if unknown:
            raise ValueError(f"no section {unknown[0]!r}; sections are {', '.join(WITHOUT_DATA + WITH_IMAGES)}")
        lacking = [name for name in self.sections if name in WITH_IMAGES and not self.images]
        if lacking:
            raise ValueError(f"section {lacking[0]!r} needs --images FOLDER, with JPEG files")
        if self.images and not Path(self.images).is_dir():
            raise ValueError(f"images {self.images!r} is no folder; give one with JPEG files")
        if "startup" in self.sections and not Path(self.digits_recipe).is_file():
            raise ValueError(f"digits_recipe {self.digits_recipe!r} does not exist; give recipes/train_digits_lt.py")
        if self.sizes not in SIZES:
            raise ValueError(f"sizes must be one of {', '.join(SIZES)}, got {self.sizes!r}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if torch.device(self.device or "cpu").type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r}: there is no CUDA device; give cpu")

    @property
    def devices(self) -> list[str]:
        """On which to measure, one after the other."""
        return [self.device] if self.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

    @property
    def torch_device(self) -> torch.device:
        """The device, as torch has it."""
        return torch.device(self.device or "cpu")

    @property
    def full(self) -> bool:
        """Whether sizes are those of the figures, not those to try the benchmark by."""
        return self.sizes == "full"
