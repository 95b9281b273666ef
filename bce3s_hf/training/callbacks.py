"""What happens at the Trainer's epochs and steps: sampler and dataset are told the epoch, weights are averaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import Dataset, Sampler, Subset
from transformers import TrainerCallback

AVERAGE_FILE = "ema.safetensors"


class WeightAverage(TrainerCallback):
    """timm's `ModelEmaV3` of a model's parameters and buffers, updated after every step of the optimizer.

    The decay of step t is min(decay, 1 - 1 / t): the plain mean of the weights so far, until that spans
    1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.average: ModelEmaV3 | None = None

    def load(self, checkpoint: str) -> None:
        """Go on with the average that a checkpoint holds.

        Raises:
            ValueError: If it holds none.
        """
        path = Path(checkpoint) / AVERAGE_FILE
        if not path.is_file():
            raise ValueError(f"ema_decay {self.decay}: {str(checkpoint)!r} was trained without; leave ema_decay out")
        self._start()
        self.average.module.load_state_dict(load_file(path))

    def save(self, checkpoint: str) -> None:
        """Write the average into the folder of a checkpoint."""
        tensors = {name: value.contiguous() for name, value in self.average.module.state_dict().items()}
        save_file(tensors, Path(checkpoint) / AVERAGE_FILE)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside this block, and its own again after it."""
        if self.average is None:  # before the first step
            yield
            return
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 or self.average is None:
            self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update(self.model, step=state.global_step)

    def _start(self) -> None:
        self.average = ModelEmaV3(self.model, self.decay, use_warmup=True, warmup_power=1.0)


class EpochCallback(TrainerCallback):
    """Tells the sampler and a training dataset that has `set_epoch` the epoch.

    accelerate reaches neither through the loader of a resumed epoch. Thresholds that were fitted to a model end with
    its further training.
    """

    def __init__(self) -> None:
        self.dataset: Dataset | None = None
        self.sampler: Sampler | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        model.config.score_thresholds = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        self.sampler.set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def unwrapped(dataset: Dataset) -> Dataset:
    """A dataset, or that which a Subset is of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset
