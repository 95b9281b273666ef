"""Manifests: saved and loaded, true to their dataset, and refused with any other."""

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from bce3s_hf.data.long_tail import make_long_tailed
from bce3s_hf.data.split_manifest import SplitManifest

LABELS = np.random.RandomState(7).permutation(np.repeat([0, 1, 2], [30, 25, 20]))


@pytest.fixture
def dataset():
    return Dataset.from_dict({"row": list(range(len(LABELS))), "label": LABELS})


def test_manifest_survives_saving(dataset, tmp_path):
    subset, manifest = make_long_tailed(dataset, "label", 5, convention="shuffle", seed=1)
    manifest.save(tmp_path / "split.json")
    loaded = SplitManifest.load(tmp_path / "split.json")
    assert loaded == manifest
    assert loaded.select(dataset)["row"][:] == subset["row"][:]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[1]", "{}", '{"indices": [1]}', '{"extra": 1}'], ids=lambda text: text or "empty"
)
def test_file_that_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is not a split manifest"):
        SplitManifest.load(path)


def test_image_is_no_manifest(tmp_path):
    path = tmp_path / "split.png"
    path.write_bytes(b"\x89PNG\xff\xd8")
    with pytest.raises(ValueError, match=r"split\.png is not a split manifest"):
        SplitManifest.load(path)


def test_manifest_with_a_row_removed_is_refused(dataset, tmp_path):
    path = tmp_path / "split.json"
    make_long_tailed(dataset, "label", 5, max_count=20)[1].save(path)
    content = json.loads(path.read_text())
    content["indices"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lists 31 rows, but its class counts sum to 32"):
        SplitManifest.load(path)


@pytest.mark.parametrize("rows", [list(range(74)), list(range(75))[::-1], [*range(75), 0]])
def test_manifest_refuses_other_rows(dataset, rows):
    manifest = make_long_tailed(dataset, "label", 5)[1]
    with pytest.raises(ValueError, match=f"made from another dataset: 75 rows then, {len(rows)} now.*'label'"):
        manifest.select(dataset.select(rows))


def test_manifest_refuses_a_dataset_without_its_column(dataset):
    manifest = make_long_tailed(dataset, "label", 5)[1]
    with pytest.raises(ValueError, match="no column 'label', only 'row', 'target'"):
        manifest.select(dataset.rename_column("label", "target"))


@pytest.mark.parametrize(
    "change",
    [
        lambda indices: [74 if row == indices[-1] else row for row in indices],
        lambda indices: indices[::-1],
        lambda indices: [*indices[:-1], 10_000],
    ],
    ids=["swapped", "reordered", "out of range"],
)
def test_manifest_refuses_changed_rows(dataset, change):
    manifest = make_long_tailed(dataset, "label", 5, convention="first")[1]
    changed = change(manifest.indices)
    assert changed != manifest.indices
    with pytest.raises(ValueError, match="made from another dataset"):
        replace(manifest, indices=changed).select(dataset)


def test_hash_is_equal_for_the_same_split_only(dataset):
    def digest(data=dataset, factor=5, **settings):
        return make_long_tailed(data, "label", factor, **settings)[1].sha256

    different = {
        "first": digest(),
        "less imbalance": digest(factor=4),
        "step": digest(kind="step"),
        "smaller": digest(max_count=15),
        "seed 0": digest(convention="shuffle"),
        "seed 1": digest(convention="shuffle", seed=1),
        "other labels": digest(dataset.select(range(75)[::-1])),
    }
    assert len(set(different.values())) == len(different)
    assert different["first"] == digest() == digest(seed=9)
    assert different["seed 1"] == digest(convention="shuffle", seed=1)


@pytest.mark.parametrize(("convention", "digest"), [("first", "d2c33bbd6cc0"), ("shuffle", "8d08cfba6840")])
def test_hash_is_the_same_on_every_machine(dataset, convention, digest):
    manifest = make_long_tailed(dataset, "label", 5, max_count=20, convention=convention)[1]
    assert manifest.sha256.startswith(digest)
