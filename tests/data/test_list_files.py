"""List files as they are published, and what is said of those that cannot be read."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from long_tail_files import write_annotations

from bce3s_hf.data.list_files import list_sha256, read_list

REAL = Path(os.environ.get("BCE3S_DATA", ".")) / "lists"


@pytest.fixture
def annotate(tmp_path):
    return partial(write_annotations, tmp_path)


def test_lines_are_split_at_the_last_blank(tmp_path):
    file = tmp_path / "list.txt"
    text = "\ufeffa cat/1 2.jpg 0\r\n./b//2.jpg\t1\r\n\r\n  c/../d/3.jpg   12 \r\nline\u2028 end.jpg 3\n"
    file.write_bytes(text.encode())
    listed = read_list(file)
    assert listed.paths == ["a cat/1 2.jpg", "b/2.jpg", "d/3.jpg", "line\u2028 end.jpg"]
    assert (listed.labels, listed.names) == ([0, 1, 12, 3], {})


@pytest.mark.parametrize(
    "line", ["a.jpg", "a.jpg -1", "a.jpg 1.0", "a.jpg cat", "7", "a.jpg,0", "a.jpg ²", "a.jpg 1_0"]
)
def test_malformed_line_is_quoted_with_its_number(tmp_path, line):
    file = tmp_path / "list.txt"
    file.write_text(f"a/0.jpg 0\n\n{line}\n")
    with pytest.raises(ValueError) as error:
        read_list(file)
    assert f"list '{file}', line 3: '{line}' is not a path and a label from 0, such as 'train/" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list '.*list.txt' names no image"),
        (" \n\n", "names no image"),
        ("../../etc/passwd 0\nb.jpg 1", "1 paths that leave the folder of the images: ../../etc/passwd; make them"),
        ("/etc/passwd 0", "1 paths that leave the folder of the images: /etc/passwd;"),
        ("a/../../b.jpg 0\n.. 0", r"2 paths that leave the folder of the images: ../b.jpg, ..; make"),
        ("a.jpg 3\nb.jpg 1\na.jpg 5", r"gives 1 images several labels: a.jpg \(3, 5\)"),
        ("a.jpg 3\nb.jpg 1\n./a.jpg 3", "names 1 images more than once: a.jpg; remove the repetitions"),
    ],
)
def test_list_is_refused(tmp_path, text, message):
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(file)


def test_list_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="list '.*list.txt' is not text in UTF-8"):
        read_list(file)
    with pytest.raises(ValueError, match="list '.*gone.txt' does not exist; give a file of lines `path label`"):
        read_list(tmp_path / "gone.txt")


def test_only_the_first_ten_are_named(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("".join(f"../{number}.jpg 0\n" for number in range(11)))
    with pytest.raises(ValueError) as error:
        read_list(file)
    assert "has 11 paths" in str(error.value) and "../8.jpg, ../9.jpg, ...; make" in str(error.value)


def test_annotations_are_matched_by_id(annotate):
    listed = read_list(annotate())
    assert (listed.paths, listed.labels, listed.names) == (["b/1.jpg", "a/0.jpg"], [1, 0], {0: "ant", 1: "bee"})
    assert read_list(annotate(categories=None)).names == {}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"annotations": None},
            r"not COCO-like annotations with images \(id, file_name\) and .*KeyError: 'annotations'",
        ),
        ({"images": [{"id": 10}]}, "KeyError: 'file_name'"),
        ({"images": 3}, "TypeError"),
        ({"annotations": [], "images": []}, "names no image"),
        ({"annotations": [{"image_id": 10, "category_id": 0}]}, "1 image ids without an annotation or .* image: 11"),
        ({"images": [{"id": 11, "file_name": "b/1.jpg"}]}, "1 image ids without an annotation or .* image: 10"),
        ({"categories": [{"id": "0", "name": "ant"}]}, "category ids that are no whole numbers from 0: 0"),
        (
            {"annotations": [{"image_id": 10, "category_id": -1}, {"image_id": 11, "category_id": 1.5}]},
            "category ids that are no whole numbers from 0: -1, 1.5",
        ),
        (
            {"annotations": [{"image_id": i, "category_id": k} for i, k in ((10, 0), (11, 1), (10, 1))]},
            r"several labels: a/0.jpg \(0, 1\)",
        ),
    ],
)
def test_annotations_are_refused(annotate, parts, message):
    with pytest.raises(ValueError, match=message):
        read_list(annotate(**parts))


def test_annotations_that_are_no_json_are_refused(tmp_path):
    file = tmp_path / "train.json"
    file.write_text("a/0.jpg 0")
    with pytest.raises(ValueError, match="is not COCO-like annotations.*JSONDecodeError"):
        read_list(file)


def test_list_hash_is_that_of_the_file(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list_sha256(tmp_path / "list.txt") == known


@pytest.mark.skipif("BCE3S_DATA" not in os.environ, reason="BCE3S_DATA does not name the folder of lists/")
@pytest.mark.parametrize(
    ("name", "classes", "each", "first", "last"),
    [
        (
            "ImageNet_LT_val.txt",
            1000,
            20,
            "train/n01440764/n01440764_762.JPEG",
            "train/n15075141/n15075141_10125.JPEG",
        ),
        (
            "iNaturalist18_val.txt",
            8142,
            3,
            "train_val2018/Plantae/7291/9f8ecb39e5f767e39e9b28e34488f179.jpg",
            "train_val2018/Aves/3178/96226265a938b66d98c42bf857fe3a35.jpg",
        ),
    ],
)
def test_real_lists(name, classes, each, first, last):
    listed = read_list(REAL / name)
    assert Counter(listed.labels) == {label: each for label in range(classes)}
    assert (len(set(listed.paths)), listed.paths[0], listed.paths[-1]) == (classes * each, first, last)
