"""The table `metadata.csv`, `.jsonl` or `.parquet` that goes with a folder of images, as `datasets` defines it."""

import os
import posixpath
from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets import ClassLabel, Features

from bce3s_hf.data.columns import IMAGE, LABEL_NAMES, quoted
from bce3s_hf.data.image_files import FoundFile
from bce3s_hf.data.list_files import first_ten
from bce3s_hf.text import printable

FILE_NAME = "file_name"
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})


@dataclass(frozen=True)
class Metadata:
    """What a table says of images.

    Attributes:
        place: Path of the table in the dataset's folder.
        features: Of its columns, without the names of the files.
        columns: Values of its columns.
        row_of: Row of each image, by its path in the dataset's folder.
        repeated: Paths in several rows, which are equal.
    """

    place: str
    features: Features
    columns: dict[str, list]
    row_of: dict[str, int]
    repeated: list[str]

    def has_label(self, label_column: str | None) -> bool:
        """Whether a column is the one given, or could be that of the labels."""
        known = set().union(*LABEL_NAMES)
        return label_column in self.features or any(
            isinstance(feature, ClassLabel) or name.lower() in known for name, feature in self.features.items()
        )

    def rows(self, paths: list[str]) -> dict[str, list]:
        """Values of the columns for these images."""
        places = [self.row_of[path] for path in paths]
        return {name: [values[place] for place in places] for name, values in self.columns.items()}


def find_metadata(folder: str, found: list[FoundFile], start: dict[str, str]) -> dict[str, Metadata]:
    """The table of each split, none if there are none.

    Args:
        folder: Of the dataset.
        found: What it holds, by `walk_folder`.
        start: By split, what the paths of its files begin with.

    Raises:
        ValueError: If a split has two tables, or another one has none, or as `read_metadata`.
    """
    places = {start: [] for start in ("", *start.values())}
    for file in found:
        around, name = posixpath.split(file.path)
        if name in METADATA_NAMES and (around and f"{around}/") in places:
            places[around and f"{around}/"].append(file.path)
    of_split = {split: {*places[""], *places[begin]} for split, begin in start.items()}
    for split, tables in of_split.items():
        if len(tables) > 1:
            raise ValueError(
                f"dataset {folder!r} has several tables for {split!r}: {quoted(sorted(tables))}; keep one"
            )
    read = {place: read_metadata(folder, place) for place in set().union(*of_split.values())}
    without = [split for split, tables in of_split.items() if not tables]
    if read and without:
        raise ValueError(
            f"dataset {folder!r} has the table {next(iter(read))!r}, but split {without[0]!r} has none; give "
            "each split one, or none"
        )
    return {split: read[place] for split, tables in of_split.items() for place in tables}


def read_metadata(folder: str, place: str) -> Metadata:
    """Read a table of images.

    Args:
        folder: Of the dataset.
        place: Path of the table in it. The table's paths are relative to where it lies.

    Raises:
        ValueError: If it cannot be read, has no text column `file_name`, has a column `image` or two of one name, or
            gives an image twice with different values.
    """
    file = os.path.join(folder, place)
    try:
        table = _read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file!r} cannot be read: {printable(error)}") from error
    repeats = [name for name, count in Counter(table.column_names).items() if count > 1]
    if repeats:
        raise ValueError(f"{file!r} has several columns {repeats[0]!r}; keep one")
    if FILE_NAME not in table.column_names or IMAGE in table.column_names:
        raise ValueError(
            f"{file!r} must have a column {FILE_NAME!r}, with the path of each image relative to it, and none named "
            f"{IMAGE!r}; its columns, separated by commas, are {quoted(table.column_names)}"
        )
    kind = table.schema.field(FILE_NAME).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"column {FILE_NAME!r} of {file!r} holds {kind}, not paths with their endings")
    around = posixpath.dirname(place)
    paths = [_in_folder(around, name or "") for name in table[FILE_NAME].to_pylist()]
    columns = table.drop_columns(FILE_NAME)
    rows = defaultdict(list)
    for row, path in enumerate(paths):
        rows[path].append(row)
    repeated = {path: places for path, places in rows.items() if len(places) > 1}
    clashes = [path for path, places in repeated.items() if not _are_equal(columns.take(places))]
    if clashes:
        raise ValueError(
            f"{file!r} lists {len(clashes)} images several times with different values: {first_ten(clashes)}; keep "
            "one row for each"
        )
    return Metadata(
        place,
        Features.from_arrow_schema(columns.schema),
        columns.to_pydict(),
        {path: places[0] for path, places in rows.items()},
        list(repeated),
    )


def _read_table(file: str) -> pa.Table:
    """Text is read in one block, since a row may be of any length."""
    block = min(os.path.getsize(file) + 1, 2**30)
    if file.endswith(".parquet"):
        return pa.parquet.read_table(file)
    if file.endswith(".jsonl"):
        return pa.json.read_json(file, pa.json.ReadOptions(block_size=block))
    options = pa.csv.ReadOptions(block_size=block), pa.csv.ParseOptions(newlines_in_values=True)
    table = pa.csv.read_csv(file, *options)
    as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(table.column_names, pa.string()))
    texts = pa.csv.read_csv(file, *options, as_text).columns
    columns = [
        values if _are_numbers(values, text) else text for values, text in zip(table.columns, texts, strict=True)
    ]
    return pa.table(columns, table.column_names)


def _are_numbers(values: pa.ChunkedArray, text: pa.ChunkedArray) -> bool:
    """Whether values read from a text are numbers; 01 is not, which would become the same as 1."""
    if pa.types.is_integer(values.type):
        return bool(pa.compute.all(pa.compute.equal(values.cast(pa.string()), text)).as_py())
    return pa.types.is_floating(values.type)


def _in_folder(around: str, name: str) -> str:
    """Path in the folder of the dataset. Of one that leaves it, no file was found there."""
    return posixpath.normpath(posixpath.join(around, name.replace("\\", "/")))


def _are_equal(rows: pa.Table) -> bool:
    first, *others = rows.to_pylist()
    return all(row == first for row in others)
