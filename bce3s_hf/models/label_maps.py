"""The two maps that each configuration of transformers has, from class numbers to names and back, kept in step."""

import reprlib
from typing import Any

from transformers import PreTrainedConfig


def named_classes(id2label: Any) -> dict[int, str]:
    """Names by class number, in the order of the numbers.

    Args:
        id2label: From each class number 0, ..., K - 1, or its text as in JSON, to a name of its own.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(id2label, dict):
        raise ValueError(f"id2label must be a dict from class numbers to names, got {reprlib.repr(id2label)}")
    names = {str(key): name for key, name in id2label.items()}
    numbers = [str(label) for label in range(len(id2label))]
    if names.keys() != {*numbers}:
        raise ValueError(
            f"id2label must have the keys 0 to {len(id2label) - 1}, one for each of its {len(id2label)} classes, got "
            f"{reprlib.repr([*id2label])}; number the names by dict(enumerate(names))"
        )
    other = next((name for name in names.values() if not isinstance(name, str)), None)
    if other is not None:
        raise ValueError(f"id2label must hold names as text, got {reprlib.repr(other)}; take str of it")
    numbered = {label: names[number] for label, number in enumerate(numbers)}
    labels = label_of_each_name(numbered)
    if len(labels) < len(numbered):
        first, name = next((label, name) for label, name in numbered.items() if labels[name] != label)
        raise ValueError(
            f"id2label has the name {name!r} twice, for the classes {first} and {labels[name]}; give each its own"
        )
    return numbered


def label_of_each_name(id2label: dict[int, str]) -> dict[str, int]:
    """The inverse map, label2id."""
    return {name: label for label, name in id2label.items()}


def check_label2id(label2id: Any, id2label: dict[int, str]) -> None:
    """Raise ValueError unless this is the inverse of `id2label`, with numbers or their texts, or None."""
    if label2id is None:
        return
    numbers = {name: str(label) for name, label in label2id.items()} if isinstance(label2id, dict) else label2id
    if numbers != {name: str(label) for label, name in id2label.items()}:
        raise ValueError(
            f"label2id {reprlib.repr(label2id)} contradicts id2label {reprlib.repr(id2label)}; leave label2id out, it "
            "follows from id2label"
        )


def known_class_names(config: PreTrainedConfig) -> list[str] | None:
    """Names of the K classes of a model in the order of their labels; None if they are transformers' LABEL_0, ..."""
    names = [config.id2label[label] for label in range(config.num_labels)]
    return None if names == [f"LABEL_{label}" for label in range(len(names))] else names
