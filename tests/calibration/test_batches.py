from __future__ import annotations

import gc
import io
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from gpusq_compiler.calibration import columns
from gpusq_compiler.calibration.archive import ArchiveReader
from gpusq_compiler.calibration.batches import (
    MIN_TRAINING_SAMPLES,
    from_arrays,
    load,
    require,
    split,
)
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import DataError, FileError, GpusqError
from gpusq_compiler.runtime.samples import Samples, batches
from gpusq_compiler.runtime.session import InputSpec

Array = npt.NDArray[Any]
FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
INPUTS = (
    InputSpec(name="x", dtype=FLOAT, shape=(None, 3, None)),
    InputSpec(name="ids", dtype=INT, shape=(None, 2)),
)


def arrays(count: int = 12, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((count, 3, 5)).astype(np.float32),
        "ids": rng.integers(0, 9, (count, 2)),
        "labels": rng.integers(0, 4, count),
    }


def everything(samples: Samples) -> dict[str, Array]:
    return dict(samples.take(np.arange(samples.count)))


def assert_same(samples: Samples, wanted: dict[str, Array]) -> None:
    found = everything(samples)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_a_model_without_inputs_takes_no_array() -> None:
    with pytest.raises(DataError, match="Leave it out; the inputs are none"):
        from_arrays({"x": np.zeros(3)}, (), workdir=Path("unused"))


def refused(kind: type[GpusqError], data: dict[str, Any], **options: Any) -> str:
    """The sentence that refuses these arrays."""
    with pytest.raises(kind) as caught:
        from_arrays(data, INPUTS, workdir=Path("unused"), **options)
    return str(caught.value)


def spec_refused(kind: type[GpusqError], spec: object, workdir: Path) -> str:
    with pytest.raises(kind) as caught:
        load(str(spec), INPUTS, workdir=workdir, classes=4)
    line = str(caught.value)
    assert "\n" not in line
    assert not list(workdir.glob("data-*"))
    return line


def open_files() -> int:
    opened = Path("/proc/self/fd")
    return len(list(opened.iterdir())) if opened.exists() else 0


# --- what can be read ---------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_gives_its_rows(tmp_path: Path, save: Any, order: str) -> None:
    data = arrays()
    stored = {k: np.asarray(v, order=order) for k, v in data.items()}  # type: ignore[call-overload]
    save(tmp_path / "d.npz", **stored)
    samples = load(str(tmp_path / "d.npz"), INPUTS, workdir=tmp_path / "w", classes=4)
    assert samples.count == 12
    assert samples.has_labels
    assert_same(samples, data)
    rows = np.array([7, 0, 7, 11])
    for name, value in samples.take(rows).items():
        np.testing.assert_array_equal(value, data[name][rows])
    assert not (tmp_path / "w").exists()


def test_a_large_compressed_array_is_unpacked_to_a_file(tmp_path: Path) -> None:
    data = arrays()
    np.savez_compressed(tmp_path / "d.npz", **data)
    reader = ArchiveReader(tmp_path / "w", in_memory=data["x"].nbytes + 8)
    found = reader.read(tmp_path / "d.npz")
    kinds = {name: type(column).__name__ for name, column in found.items()}
    assert kinds == {"x": "MemoryColumn", "ids": "FileColumn", "labels": "FileColumn"}
    for name, column in found.items():
        np.testing.assert_array_equal(column.read(slice(None)), data[name])
    assert len(list((tmp_path / "w").iterdir())) == 2


def test_stored_arrays_are_not_held_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays())
    found = ArchiveReader(tmp_path / "w").read(tmp_path / "d.npz")
    assert {type(column) for column in found.values()} == {columns.FileColumn}


def test_many_shards_keep_no_file_open(tmp_path: Path) -> None:
    for index in range(40):
        np.savez(tmp_path / f"{index:03}.npz", **arrays(2, index))
    before = open_files()
    samples = load(str(tmp_path), INPUTS, workdir=tmp_path / "w")
    everything(samples)
    assert open_files() <= before


def test_a_folder_of_shards_is_read_in_sorted_order(tmp_path: Path) -> None:
    parts = [arrays(n, seed) for seed, n in enumerate((3, 1, 4))]
    for name, part in zip(("b", "a", "c"), parts, strict=True):
        np.savez(tmp_path / f"{name}.npz", **part)
    (tmp_path / "notes.txt").write_text("not a shard")
    samples = load(str(tmp_path), INPUTS, workdir=tmp_path / "w")
    order = [parts[1], parts[0], parts[2]]
    whole = {k: np.concatenate([part[k] for part in order]) for k in parts[0]}
    assert_same(samples, whole)
    rows = np.array([7, 0, 3, 0])
    np.testing.assert_array_equal(samples.take(rows)["x"], whole["x"][rows])
    sizes = [len(feeds["x"]) for feeds in batches(samples, 3)]
    assert sizes == [3, 3, 2]


def test_python_objects_arrays_feeds_and_functions(tmp_path: Path) -> None:
    data = arrays()
    halves = [{k: v[:7] for k, v in data.items()}, {k: v[7:] for k, v in data.items()}]
    for given in (data, halves, iter(halves), lambda: iter(halves)):
        assert_same(from_arrays(given, INPUTS, workdir=tmp_path), data)


def test_labels_are_optional_and_come_as_int64(tmp_path: Path) -> None:
    data = arrays()
    del data["labels"]
    assert not from_arrays(data, INPUTS, workdir=tmp_path).has_labels
    data["labels"] = np.arange(12, dtype=np.uint8)
    assert everything(from_arrays(data, INPUTS, workdir=tmp_path))["labels"].dtype == INT


def test_a_scalar_input_has_one_value_per_sample(tmp_path: Path) -> None:
    scalar = InputSpec(name="a", dtype=FLOAT, shape=())
    inputs = (scalar, InputSpec(name="x", dtype=FLOAT, shape=(None, 2)))
    data = {"a": np.array([5, 6, 7], np.float32), "x": np.zeros((3, 2), np.float32)}
    feeds = from_arrays(data, inputs, workdir=tmp_path).take(np.array([1, 2]))
    assert feeds["a"].shape == ()
    assert feeds["a"] == 6
    assert next(iter(feeds)) == "x", "what has a length comes first"


def test_bfloat16_survives_the_npz_format(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2).astype(ml_dtypes.bfloat16)
    inputs = (InputSpec(name="x", dtype=values.dtype, shape=(None, 2)),)
    np.savez(tmp_path / "d.npz", x=values)
    samples = load(str(tmp_path / "d.npz"), inputs, workdir=tmp_path)
    np.testing.assert_array_equal(everything(samples)["x"], values)


def test_empty_dimensions_of_a_sample_are_fine(tmp_path: Path) -> None:
    inputs = (InputSpec(name="past", dtype=FLOAT, shape=(None, 2, None)),)
    np.savez(tmp_path / "d.npz", past=np.zeros((3, 2, 0), np.float32))
    samples = load(str(tmp_path / "d.npz"), inputs, workdir=tmp_path)
    assert samples.take(np.array([0, 2]))["past"].shape == (2, 2, 0)


def test_a_model_with_a_fixed_batch_takes_any_number_of_samples(tmp_path: Path) -> None:
    inputs = (InputSpec(name="x", dtype=FLOAT, shape=(4, 2)),)
    data = {"x": np.zeros((7, 2), np.float32)}
    assert from_arrays(data, inputs, workdir=tmp_path).count == 7


# --- loader functions ---------------------------------------------------------------------

LOADER = """
import numpy as np
import neighbour

def train():
    with open(neighbour.CALLS, "a") as file:
        file.write("called ")
    for start in range(0, 10, 4):
        rows = np.arange(start, min(start + 4, 10))
        import late
        yield {"x": late.x(rows), "ids": np.stack([rows, rows], 1), "labels": rows % 4}

def nothing():
    return iter(())

def raises():
    yield {"x": np.zeros((1, 3, 5), np.float32), "ids": np.zeros((1, 2), np.int64)}
    raise KeyError("no disk\\nsecond line")

def leaves():
    raise SystemExit(0)

def number():
    return 5

def dictionary():
    return {"x": np.zeros((1, 3, 5), np.float32)}

def lists():
    yield [1, 2]

def empty():
    yield {}

def scalar():
    yield {"x": np.float32(1), "ids": np.zeros((1, 2), np.int64)}

def uneven():
    for length in (5, 6):
        yield {"x": np.zeros((1, 3, length), np.float32), "ids": np.zeros((1, 2), np.int64)}

def other_names():
    for name in ("ids", "IDS"):
        yield {"x": np.zeros((1, 3, 5), np.float32), name: np.zeros((1, 2), np.int64)}

constant = 5
"""


@pytest.fixture
def loader(tmp_path: Path) -> Path:
    calls = tmp_path / "calls.txt"
    (tmp_path / "neighbour.py").write_text(f"CALLS = {str(calls)!r}\n")
    (tmp_path / "late.py").write_text(
        "import numpy as np\n"
        "def x(rows):\n    return np.ones((len(rows), 3, 5), np.float32) * rows[:, None, None]"
        ".astype(np.float32)\n"
    )
    path = tmp_path / "loader.py"
    path.write_text(LOADER)
    return path


def test_a_loader_is_called_once_and_then_read_by_row(loader: Path, tmp_path: Path) -> None:
    before = list(sys.path)
    samples = load(f"{loader}:train", INPUTS, workdir=tmp_path / "w", classes=4)
    assert sys.path == before
    assert samples.count == 10
    for _ in range(2):
        feeds = samples.take(np.array([9, 0, 4]))
        np.testing.assert_array_equal(feeds["x"][:, 0, 0], [9, 0, 4])
        np.testing.assert_array_equal(feeds["labels"], [1, 0, 0])
    assert (tmp_path / "calls.txt").read_text() == "called "


def test_several_loads_share_a_workdir_and_clean_up(loader: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    first = load(f"{loader}:train", INPUTS, workdir=workdir)
    others = [from_arrays([arrays(5, seed)], INPUTS, workdir=workdir) for seed in (1, 2)]
    second = load(f"{loader}:train", INPUTS, workdir=workdir)
    assert_same(first, everything(second))
    for seed, other in zip((1, 2), others, strict=True):
        assert_same(other, arrays(5, seed))
    assert len(list(workdir.iterdir())) == 4
    del first, second, other, others
    gc.collect()
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("nothing", "yields nothing"),
        ("raises", "raised KeyError: 'no disk"),
        ("leaves", "raised SystemExit: 0"),
        ("number", "gives an object of type int, not batches"),
        ("dictionary", "gives an object of type dict, not batches"),
        ("lists", "batch 0: is of type list, not a dictionary"),
        ("empty", "batch 0: is empty"),
        ("scalar", "batch 0: array 'x': is not an array of samples"),
        ("uneven", r"batch 1: array 'x': holds float32 samples of shape \[3, 6\], earlier"),
        ("other_names", "batch 1: holds x, IDS, earlier batches x, ids"),
        ("constant", "'constant' is of type int, not a function"),
        ("nope", "has no function 'nope'.*train"),
    ],
)
def test_a_loader_that_misbehaves_is_one_line(
    loader: Path, tmp_path: Path, function: str, sentence: str
) -> None:
    line = spec_refused(DataError, f"{loader}:{function}", tmp_path / "w")
    assert re.search(sentence, line), line
    assert "loader.py" in line


def test_a_loader_file_that_fails_or_is_missing(tmp_path: Path) -> None:
    assert "no such file" in spec_refused(FileError, tmp_path / "gone.py:f", tmp_path)
    (tmp_path / "bad.py").write_text("def f(:\n")
    assert "raised SyntaxError" in spec_refused(DataError, tmp_path / "bad.py:f", tmp_path)
    (tmp_path / "bad.py").write_text("import no_such_module_at_all\n")
    line = spec_refused(DataError, tmp_path / "bad.py:f", tmp_path)
    assert "raised ModuleNotFoundError" in line


# --- files that cannot be read --------------------------------------------------------------


def test_missing_path_and_folder_without_shards(tmp_path: Path) -> None:
    assert "no such file or folder" in spec_refused(FileError, tmp_path / "gone", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no .npz files" in spec_refused(DataError, tmp_path / "empty", tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays())
    path.chmod(0)
    assert "Permission denied" in spec_refused(FileError, path, tmp_path)


def test_a_workdir_that_cannot_be_written(loader: Path, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file where the folder should be")
    with pytest.raises(FileError, match="cannot be read or written"):
        load(f"{loader}:train", INPUTS, workdir=tmp_path / "w")
    with pytest.raises(FileError, match="cannot be read or written"):
        from_arrays([arrays()], INPUTS, workdir=tmp_path / "w")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    assert "not a sound .npz archive" in spec_refused(DataError, path, tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_truncation_is_refused(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "d.npz"
    save(path, **arrays())
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:length])
        assert "not a sound .npz archive" in spec_refused(DataError, path, tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_never_passes_and_never_escapes(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "d.npz"
    data = arrays(400)  # longer than what zipfile reads ahead
    save(path, **data)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 120):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            samples = load(str(path), INPUTS, workdir=tmp_path / "w", classes=4)
        except (DataError, FileError):
            continue
        assert_same(samples, data)  # the bit was one that zip does not use, as a date


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    data = arrays()
    data["x"] = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "d.npz", **data)
    line = spec_refused(DataError, tmp_path / "d.npz", tmp_path)
    assert "array 'x': holds Python objects, which are never unpickled" in line


def test_an_array_that_is_longer_or_shorter_than_its_header(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, arrays()["x"])
    for content in (file.getvalue() + b"more", file.getvalue()[:-4]):
        with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
            archive.writestr("x.npy", content)
        line = spec_refused(DataError, tmp_path / "d.npz", tmp_path)
        assert "not a sound .npz archive: x.npy is" in line


def test_data_that_vanish_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays())
    samples = load(str(path), INPUTS, workdir=tmp_path)
    path.unlink()
    with pytest.raises(FileError, match="cannot be read any more"):
        samples.take(np.array([0]))


# --- arrays that do not fit -----------------------------------------------------------------


def changed(**other: Any) -> dict[str, Any]:
    """The sound arrays with some replaced, or taken away with None."""
    return {k: v for k, v in {**arrays(), **other}.items() if v is not None}


def with_value(name: str, index: Any, value: float) -> dict[str, Any]:
    data = arrays()
    data[name][index] = value
    return data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (changed(ids=None), "no array 'ids' for that input of the model; it holds x, labels"),
        ({}, "no array 'x'.*holds nothing"),
        (changed(idz=np.zeros(12)), "'idz' is no input.*Leave it out; the inputs are x, ids"),
        (
            changed(label=np.zeros(12), labels=None),
            "'label' is no input.*Did you mean labels",
        ),
        (changed(label=np.zeros(12)), "'label' is no input.*Leave it out"),
        (
            changed(x=np.zeros((12, 3, 5))),
            r"array 'x': is float64, the model wants float32. .*\.astype\(np.float32\)",
        ),
        (changed(ids=np.zeros((12, 2), np.int32)), r"is int32.*\.astype\(np.int64\)"),
        (changed(ids=np.zeros((12, 2), bool)), "is bool, the model wants int64"),
        (
            changed(x=np.zeros((12, 15), np.float32)),
            r"has shape \[12, 15\].*\[samples, 3, any\]",
        ),
        (changed(x=np.zeros((12, 4, 5), np.float32)), r"\[12, 4, 5\], the model wants"),
        (changed(x=np.float32(1)), r"has shape \[\], the model wants"),
        (changed(ids=np.zeros((11, 2), int)), "different numbers of samples: x 12, ids 11"),
        (changed(labels=np.zeros(13, int)), "different numbers of samples: .*labels 13"),
        (changed(labels=np.int64(3)), "different numbers of samples: .*labels 0"),
        ({k: v[:0] for k, v in arrays().items()}, "holds no samples"),
        (with_value("x", (4, 1, 2), np.nan), "array 'x': sample 4 contains NaN or infinity"),
        (with_value("x", (11, 0, 0), -np.inf), "sample 11 contains NaN or infinity"),
        (with_value("labels", 7, -1), "array 'labels': sample 7 has a negative class"),
        (with_value("labels", 3, 4), "sample 3 has class 4, the model has classes 0 to 3"),
        (changed(labels=np.zeros(12)), r"is float64, class ids are integers.*np.int64"),
        (changed(labels=np.zeros(12, bool)), "is bool, class ids are integers"),
        (changed(labels=np.zeros((12, 4))), r"class ids are integers.*argmax\(axis=1\)"),
        (changed(labels=np.zeros((12, 1), int)), r"shape \[12, 1\].*\.reshape\(-1\)"),
        (changed(labels=np.array(["a"] * 12)), "class ids are integers"),
        (changed(x=[[1], [2, 3]]), "raised ValueError"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(data: dict[str, Any], sentence: str) -> None:
    line = refused(DataError, data, classes=4, where="train.npz")
    assert re.search(sentence, line), line
    assert line.startswith("train.npz: ")
    assert "\n" not in line


def test_float_labels_are_targets_where_no_classes_are_meant(tmp_path: Path) -> None:
    targets = changed(labels=np.linspace(0, 1, 12))
    assert from_arrays(targets, INPUTS, workdir=tmp_path).has_labels
    targets["labels"][5] = np.inf
    assert "sample 5 contains NaN" in refused(DataError, targets)
    assert "class ids are integers" in refused(DataError, changed(labels=["a"] * 12))


def test_values_are_checked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK_BYTES", 3 * 5 * 4 * 2)
    pieces = [
        (start, len(values))
        for start, values in columns.chunks(columns.MemoryColumn(arrays(5)["x"]))
    ]
    assert pieces == [(0, 2), (2, 2), (4, 1)]
    line = refused(DataError, with_value("x", (9, 0, 0), np.nan))
    assert "sample 9" in line


def test_shards_that_disagree_name_the_second(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(3))
    np.savez(tmp_path / "b.npz", **changed(x=np.zeros((12, 3, 6), np.float32)))
    line = spec_refused(DataError, tmp_path, tmp_path / "w")
    assert re.search(r"b\.npz: array 'x': holds .*\[3, 6\], .*a\.npz holds .*\[3, 5\]", line)
    np.savez(tmp_path / "b.npz", **changed(labels=None))
    line = spec_refused(DataError, tmp_path, tmp_path / "w")
    assert re.search(r"b\.npz: array 'labels': holds no array", line)


def test_a_bad_sample_in_a_shard_is_named_with_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    np.savez(tmp_path / "b.npz", **with_value("x", (2, 0, 0), np.nan))
    line = spec_refused(DataError, tmp_path, tmp_path / "w")
    assert "b.npz: array 'x': sample 2 contains NaN" in line


# --- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "held"), [(2, 1), (10, 1), (12, 1), (25, 2), (1297, 129)])
def test_split_is_a_seeded_partition(tmp_path: Path, count: int, held: int) -> None:
    data = {"i": np.arange(count, dtype=np.int64)}
    inputs = (InputSpec(name="i", dtype=INT, shape=(None,)),)
    samples = from_arrays(data, inputs, workdir=tmp_path)
    train, kept = split(samples, 3)
    assert (train.count, kept.count) == (count - held, held)
    rows = np.concatenate([everything(train)["i"], everything(kept)["i"]])
    np.testing.assert_array_equal(np.sort(rows), np.arange(count))
    again = split(samples, 3)
    np.testing.assert_array_equal(everything(again[1])["i"], everything(kept)["i"])
    if count > 100:
        assert everything(split(samples, 4)[1])["i"].tolist() != everything(kept)["i"].tolist()


def test_a_subset_of_a_subset(tmp_path: Path) -> None:
    samples = from_arrays(arrays(), INPUTS, workdir=tmp_path)
    part = Subset(Subset(samples, np.array([5, 3, 8])), np.array([2, 0]))
    assert part.count == 2
    assert part.has_labels
    np.testing.assert_array_equal(everything(part)["x"], arrays()["x"][[8, 5]])


def test_too_few_samples(tmp_path: Path) -> None:
    samples = from_arrays(arrays(9), INPUTS, workdir=tmp_path)
    with pytest.raises(DataError, match="training needs at least 10 samples, there are 9"):
        require(samples, MIN_TRAINING_SAMPLES, "training")
    require(samples, 9, "training")
    with pytest.raises(DataError, match="at least 2 samples, there are 1"):
        split(from_arrays(arrays(1), INPUTS, workdir=tmp_path), 0)
