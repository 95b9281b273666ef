"""Where a setting belongs and which values it may have, said once: in the annotation of its dataclass field.

The command line takes a field's help and choices from its `metadata`; this stands beside them, in `Annotated`. What
copies, records, shows or refuses settings goes by it, so that a new setting is one field.
"""

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

SHOWN_PARTS = ("joint", "contrastive", "uniformity", "views", "augmentation", "sampling", "optimization")
PARTS = (*SHOWN_PARTS, "run", "hub")


@dataclass(frozen=True)
class Option:
    """What an annotation says of a field: `negative_ratio: Annotated[float, Option("joint", "(0, 1]")] = field(...)`.

    Attributes:
        part: What it sets, one of `PARTS`. A model card shows those of `SHOWN_PARTS`; a record has all but "hub".
        within: Interval of its values, such as "(0, 1]" or "[0, inf)"; "" for any. None passes if it is the default.
        in_config: Whether the Trainer copies it into the model's configuration.
        first_stage: Whether it is for the first stage only: a second one puts it back to its default, and refuses it.
        changeable: Whether a training may go on from a checkpoint with another value, which cannot change its result.
    """

    part: str
    within: str = ""
    in_config: bool = False
    first_stage: bool = False
    changeable: bool = False

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}")


def options_of(settings: type) -> dict[str, Option]:
    """The fields of a dataclass that have an `Option`, in their order."""
    hints = get_type_hints(settings, include_extras=True)
    found = {item.name: getattr(hints[item.name], "__metadata__", ()) for item in fields(settings)}
    return {name: part for name, parts in found.items() for part in parts if isinstance(part, Option)}


def shown_parts(*settings: type) -> dict[str, str]:
    """The part of each setting that a model card shows, by name, in the order of `SHOWN_PARTS`."""
    found = {name: option.part for each in settings for name, option in options_of(each).items()}
    return {name: part for part in SHOWN_PARTS for name in found if found[name] == part}


def recorded(settings: Any) -> dict[str, Any]:
    """Values of those settings of a dataclass object that its record has."""
    return {
        name: getattr(settings, name) for name, option in options_of(type(settings)).items() if option.part != "hub"
    }


def check_options(settings: Any) -> None:
    """Raise ValueError, naming the setting, if a value of a dataclass object is outside its interval."""
    for name, option in options_of(type(settings)).items():
        value = getattr(settings, name)
        if option.within and not (value is None and default_of(type(settings), name) is None):
            check_within(name, value, option.within)


def check_within(name: str, value: float | None, interval: str) -> None:
    """Raise ValueError, naming the setting, unless the value is in an interval such as "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    given = math.nan if value is None else value
    above = given >= low if interval[0] == "[" else given > low
    below = given <= high if interval[-1] == "]" else given < high
    if not (above and below):
        wanted = f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"
        if high < math.inf:
            wanted = f"in {interval}"
        elif interval[-1] == ")":
            wanted += " and finite"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def default_of(settings: type, name: str) -> Any:
    """Default of a field of a dataclass."""
    item = settings.__dataclass_fields__[name]
    return item.default_factory() if item.default is MISSING else item.default
