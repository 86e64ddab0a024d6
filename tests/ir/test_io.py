from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from gpusq_compiler.errors import FileError, ModelError, PassBug
from gpusq_compiler.ir import io, soundness, wire
from tests import tiny
from tests.analysis.odd_models import INVALID, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from gpusq_compiler.runtime.samples import Array


def bytes_of(model: ir.Model) -> bytes:
    """Everything about a model, tensors in one form of the many that protobuf allows."""
    proto = ir.to_proto(io.inlined(model))
    for graph in graphs(proto.graph):
        for tensor in graph.initializer:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
            )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def stored(folder: Path, model: ir.Model, *, external: bool = False) -> Path:
    """A model file as an exporter writes it."""
    path = folder / "model.onnx"
    proto = ir.to_proto(model)
    if external:
        onnx.save(
            proto, path, save_as_external_data=True, location="model.data", size_threshold=0
        )
    else:
        onnx.save(proto, path)
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("which", tiny.MODELS)
@pytest.mark.parametrize("external", [False, True])
def test_a_model_comes_back_as_it_was(which: str, external: bool, tmp_path: Path) -> None:
    model = tiny.MODELS[which]()
    loaded = io.load(stored(tmp_path, model, external=external))
    assert bytes_of(loaded) == bytes_of(model)
    written = io.save(loaded, tmp_path / "out.onnx")
    assert written.data is None
    assert written.size == (tmp_path / "out.onnx").stat().st_size
    assert bytes_of(io.load(tmp_path / "out.onnx")) == bytes_of(model)


@pytest.mark.parametrize("which", ["bf16_matmul", "int4_weight", "if_branch", "attention"])
def test_large_weights_go_into_a_data_file(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 64)
    monkeypatch.setattr(io, "LARGE", 64)
    model = tiny.MODELS[which]()
    large = {
        name: value.const_value.tobytes()
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > 64
    }
    before = bytes_of(model)
    written = io.save(model, tmp_path / "out.onnx")
    assert bytes_of(model) == before
    assert written.data is not None
    assert written.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    onnx.checker.check_model(str(written.path))
    loaded = io.load(written.path)
    assert bytes_of(loaded) == before
    assert io.source_size(loaded) == written.size
    assert all(content not in written.path.read_bytes() for content in large.values())
    found = {
        name: value.const_value
        for graph in loaded.graphs()
        for name, value in graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    assert {name: tensor.tobytes() for name, tensor in found.items()} == large
    assert all((tensor.offset or 0) % 4096 == 0 for tensor in found.values())


def test_the_data_file_is_named_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 64)
    first, again = (io.save(tiny.mlp(), tmp_path / "out.onnx").data for _ in range(2))
    other = tiny.mlp()
    other.graph.initializers["w1"].const_value = ir.tensor(
        np.zeros((16, 32), np.float32), name="w1"
    )
    second = io.save(other, tmp_path / "out.onnx").data
    assert first is not None
    assert second is not None
    assert first == again != second
    assert first.name.startswith("out.")
    assert len(first.suffixes) == 2
    # The first one stays: whoever reads the old model still finds its weights.
    assert left(tmp_path) == {"out.onnx", first.name, second.name}


def test_a_loaded_large_model_can_be_changed_and_saved_elsewhere(tmp_path: Path) -> None:
    model = io.load(stored(tmp_path, tiny.mlp(), external=True))
    target = tmp_path / "elsewhere"
    target.mkdir()
    io.save(model, target / "out.onnx")
    (tmp_path / "model.data").unlink()
    assert bytes_of(io.load(target / "out.onnx")) == bytes_of(tiny.mlp())


@pytest.mark.parametrize("content", [b"", b"\x00", b"this is no model", b"\x08\x09"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        io.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(share: float, tmp_path: Path) -> None:
    path = stored(tmp_path, tiny.attention())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError):
        io.load(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no-such\.onnx: cannot be read: No such file"):
        io.load(tmp_path / "no-such.onnx")
    with pytest.raises(FileError, match="a folder, not a model file"):
        io.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, tiny.mlp())
    path.chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        io.load(path)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path, tiny.mlp(), external=True)
    (tmp_path / "model.data").unlink()
    with pytest.raises(ModelError, match=r"data file model\.data is missing"):
        io.load(path)


def test_a_truncated_data_file_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path, tiny.mlp(), external=True)
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"ends at byte 100, the tensor at .*: truncated"):
        io.load(path)


def test_a_data_file_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = stored(inside, tiny.mlp(), external=True)
    (inside / "model.data").rename(tmp_path / "model.data")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.data"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError):
        io.load(path)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = tiny.mlp()
    tiny.node(model, "Relu.h").attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        io.load(stored(tmp_path, model))


class FullDisk:
    """Fails like a full disk after so many written bytes, wherever they are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        fdopen, opened = os.fdopen, Path.open
        monkeypatch.setattr(os, "fdopen", lambda *a, **k: self.limited(fdopen(*a, **k)))
        monkeypatch.setattr(Path, "open", lambda *a, **k: self.limited(opened(*a, **k)))

    def limited(self, file: Any) -> Any:
        disk, write = self, file.write

        class Limited:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> int:
                disk.room -= len(content)
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(write(content))

        return Limited()


@pytest.mark.parametrize("room", [0, 100, 2000])
@pytest.mark.parametrize("limit", [64, 1 << 30])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    room: int, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"the old one")
    monkeypatch.setattr(io, "INLINE_LIMIT", limit)
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(FileError, match=r"cannot be written: No space left.*Make room"):
            io.save(tiny.mlp(), path)
    assert path.read_bytes() == b"the old one"
    assert left(tmp_path) == {"out.onnx"}


def test_a_full_disk_after_the_data_file_leaves_no_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 64)
    size = tiny.weight(tiny.mlp(), "w1").nbytes + tiny.weight(tiny.mlp(), "w2").nbytes
    with monkeypatch.context() as patch:
        FullDisk(patch, size + 2 * 4096)
        patch.setattr(io, "ALIGNMENT", 1)
        patch.setattr(
            io, "replacing", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with pytest.raises(FileError):
            io.save(tiny.mlp(), tmp_path / "out.onnx")
    assert left(tmp_path) == set()


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"the old one")

    def interrupted() -> None:
        with io.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"the old one"
    assert left(tmp_path) == {"out.onnx"}


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    io.save(tiny.mlp(), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["model.onnx", "model.data", "../here/model.onnx"])
def test_what_is_read_is_never_overwritten(name: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    model = io.load(stored(here, tiny.mlp(), external=True))
    before = {path: path.read_bytes() for path in here.iterdir()}
    with pytest.raises(FileError, match="would overwrite a file that the model is read from"):
        io.save(model, here / name)
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_a_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    model = io.load(stored(tmp_path, tiny.mlp()))
    (tmp_path / "link.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(FileError, match="would overwrite"):
        io.save(model, tmp_path / "link.onnx")


def test_an_output_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the folder does not exist"):
        io.save(tiny.mlp(), tmp_path / "no" / "out.onnx")
    with pytest.raises(FileError, match="a folder, not a file"):
        io.save(tiny.mlp(), tmp_path)


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="a device or a pipe, which a file would replace"):
        io.save(tiny.mlp(), pipe)
    assert pipe.is_fifo()


def test_loading_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = stored(tmp_path, tiny.mlp(), external=True)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    io.load(path)
    assert {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()
    } == before
    assert io.file_hash(path) == io.file_hash(path)


@pytest.mark.parametrize("name", sorted(INVALID | {"sparse tensor"}))
def test_only_those_who_ask_for_it_get_what_cannot_be_worked_on(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.onnx"
    onnx.save(MODELS[name](), path)
    loaded = io.load(path, strict=False)
    complaint = soundness.complaint(loaded, path)
    assert complaint is not None
    with pytest.raises(ModelError, match=re.escape(complaint)):
        io.load(path)
    if name == "sparse tensor":
        assert complaint == "tensor 'w' is stored sparse, which nothing here reads"


def test_the_checker_sees_the_structure_without_large_weights() -> None:
    model = tiny.mlp()
    before = bytes_of(model)
    io.check(model, author="test")
    assert bytes_of(model) == before
    value = model.graph.initializers["w1"]
    model.graph.initializers.pop("w1")
    assert value.name == "w1"
    with pytest.raises(PassBug, match="test: left an invalid model"):
        io.check(model, author="test")


def exact(array: Array, dtype: ir.DataType) -> Array:
    tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name="t")
    return tensor.numpy()


@pytest.mark.parametrize(
    "dtype", [ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.FLOAT16]
)
def test_inlining_keeps_small_types_exact(dtype: ir.DataType, tmp_path: Path) -> None:
    model = tiny.int4_weight() if dtype == ir.DataType.INT4 else tiny.mlp()
    name = "codes" if dtype == ir.DataType.INT4 else "b1"
    wanted = exact(np.arange(-8, 8).repeat(2), dtype)
    shape = (16, 32) if name == "codes" else (32,)
    wanted = np.resize(wanted, shape)
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(wanted, dtype=dtype, name=name)
    file = tmp_path / "m.data"
    file.write_bytes(value.const_value.tobytes())
    value.const_value = ir.ExternalTensor(
        "m.data", 0, file.stat().st_size, dtype, shape=ir.Shape(shape), name=name,
        base_dir=tmp_path,
    )  # fmt: skip
    inlined = io.inlined(model)
    assert inlined is not model
    found = inlined.graph.initializers[name].const_value
    assert found is not None
    assert not isinstance(found, ir.ExternalTensor)
    assert found.dtype == dtype
    assert found.tobytes() == file.read_bytes()
    assert np.array_equal(found.numpy(), wanted)


def test_the_checker_takes_weights_of_bodies_from_data_files(tmp_path: Path) -> None:
    ir.save(
        tiny.if_branch(), tmp_path / "m.onnx", external_data="w.data", size_threshold_bytes=0
    )
    model = io.load(tmp_path / "m.onnx")
    io.check(model, author="test")
    body = next(iter(model.graph.subgraphs()))
    assert isinstance(body.initializers["w_then"].const_value, ir.ExternalTensor)


def test_a_hash_is_taken_anew_when_the_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = io.file_hash(file)
    assert io.file_hash(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert io.file_hash(file) != first


@pytest.mark.parametrize("kind", ["FLOAT", "BFLOAT16", "FLOAT16", "INT8", "INT4", "BOOL"])
def test_what_goes_into_a_data_file_are_the_bytes_of_the_tensor(kind: str) -> None:
    dtype = ir.DataType[kind]
    values = np.arange(24).reshape(4, 6) % 7
    for array in (values, values.T, values[:0]):
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype)
        assert bytes(wire.content(tensor)) == tensor.tobytes()


def spoiled() -> dict[str, onnx.ModelProto]:
    """Models with something wrong about a weight."""
    found = {}
    for name in ("short", "long", "segment", "twice", "old", "no type", "both", "fine"):
        proto = ir.to_proto(tiny.mlp())
        tensor = proto.graph.initializer[0]
        if name in {"short", "long"}:
            tensor.raw_data = tensor.raw_data[:-4] if name == "short" else bytes(4000)
        elif name == "segment":
            tensor.segment.begin, tensor.segment.end = 0, 1
        elif name == "twice":
            proto.graph.initializer.append(tensor)
        elif name == "old":
            proto.ir_version = 3
        elif name == "no type":
            tensor.data_type = 0
        elif name == "both":
            tensor.float_data.extend([1.0])
        found[name] = proto
    return found


@pytest.mark.parametrize("name", [*MODELS, *spoiled()])
def test_the_checker_says_the_same_without_large_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundness, "LARGE", 0)
    monkeypatch.setattr(soundness, "SMALL", 0)
    proto = MODELS[name]() if name in MODELS else spoiled()[name]
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    model = ir.load(path)
    read = onnx.load(path, load_external_data=False)
    said = soundness.complaint(model, path)
    assert soundness.complaint(model, path, read) == said
    assert (said is None) or name not in {"fine"}


def test_large_weights_are_not_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(tiny.mlp()), path)
    checked: list[object] = []
    monkeypatch.setattr(onnx.checker, "check_model", checked.append)
    io.load(path)
    assert checked == [str(path)]
    monkeypatch.setattr(soundness, "LARGE", 0)
    monkeypatch.setattr(soundness, "SMALL", 0)
    io.load(path)
    (skeleton,) = checked[1:]
    assert isinstance(skeleton, onnx.ModelProto)
    assert not skeleton.graph.initializer


def test_a_hash_taken_ahead_is_the_same_and_a_missing_file_is_nobody_s_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    for path in (file, tmp_path / "missing"):
        io.hash_ahead(path)
    assert io.file_hash(file) == hashlib.sha256(b"bytes").hexdigest()
    with pytest.raises(FileNotFoundError):
        io.file_hash(tmp_path / "missing")
    assert capfd.readouterr().err == ""
