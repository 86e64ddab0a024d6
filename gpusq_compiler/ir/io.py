"""Reading and writing model files: whole or not at all, and the input never touched."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import google.protobuf.message
import onnx
import onnx_ir as ir

from gpusq_compiler.errors import FileError, ModelError, PassBug, first_line
from gpusq_compiler.ir import packed, soundness, wire
from gpusq_compiler.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

INLINE_LIMIT = 256 << 20
"""Above this many bytes of weights the output gets a data file beside it."""
ALIGNMENT = 4096
LARGE = 1024
SOURCES = "gpusq.sources"
PACKED = "gpusq.packed"
_HASHING = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What `save` wrote."""

    path: Path
    data: Path | None
    size: int


def load(path: str | Path, *, strict: bool = True) -> ir.Model:
    """Read an ONNX file; weights in data files stay there, memory-mapped.

    Packed is a form for files: here such weights are unpacked, so that nobody else needs to.

    Args:
        path: The file.
        strict: Whether the ONNX checker has to accept it.

    Returns:
        An ``onnx_ir.Model``.

    Raises:
        FileError: There is no such file, or it cannot be read.
        ModelError: It is no complete, valid ONNX model, or not as it was packed.
    """
    path = Path(path)
    soundness.require_readable(path)
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except google.protobuf.message.DecodeError as error:
        raise ModelError(
            "not an ONNX model, or a truncated one", where=str(path), remedy="Export it again"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"the model cannot be read: {error}", where=str(path), remedy="Export it again"
        ) from error
    soundness.require_whole(model, path)
    if strict:
        soundness.require_valid(model, path, proto)
    model.meta[SOURCES] = {path.resolve(), *(p.resolve() for p in data_files(model))}
    model.meta[PACKED] = packed.unpack(model)
    return model


def check(model: ir.Model, *, author: str) -> None:
    """Run the ONNX checker on the structure; large weights are not serialised for it.

    Raises:
        PassBug: The model is not valid.
    """
    try:
        onnx.checker.check_model(structure(model))
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        reason = first_line(_root(error))
        raise PassBug(f"left an invalid model: {reason}", where=author) from error


def _root(error: BaseException) -> BaseException:
    """The first in a chain of causes, which says what a copy of the graph stumbled over."""
    return error if error.__cause__ is None else _root(error.__cause__)


def structure(model: ir.Model) -> onnx.ModelProto:
    """A protobuf of the model in which large weights of the main graph stand as inputs.

    It is small and quick to make whatever the size of the model, which is left as it is.
    """
    clone = model.clone()
    clone.ir_version = max(4, clone.ir_version or 0)
    graph = clone.graph
    known = set(graph.inputs)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) or (
            tensor is not None and tensor.nbytes > LARGE
        ):
            del graph.initializers[name]
            value.shape = ir.Shape(tensor.shape.numpy())
            value.type = ir.TensorType(tensor.dtype)
            value.const_value = None
            if value not in known:
                graph.inputs.append(value)
    for body in clone.graph.subgraphs():  # has no inputs: its weights are read
        for value in body.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    return ir.to_proto(clone)


def raise_opset(model: ir.Model, opset: int) -> None:
    """Bring an older model up to this opset of the default domain, in place.

    Raises:
        ModelError: An operator of the model has no counterpart there.
    """
    current = model.opset_imports.get("", opset)
    if current >= opset:
        return
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(inlined(model)), opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ModelError(
            f"opset {current} cannot be raised to {opset}: {first_line(error)}",
            where="model",
            remedy="Export the model with a newer opset",
        ) from error
    raised = ir.from_proto(proto)
    model.graph = raised.graph
    model.opset_imports.update(raised.opset_imports)


def require_writable(path: Path, model: ir.Model | None = None) -> None:
    """Fail now rather than after an hour of work.

    Raises:
        FileError: The folder is missing or not writable, or the path is no regular file or one
            that is read.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise FileError("a folder, not a file", where=str(path), remedy="Give a file name")
    if path.exists() and not path.is_file():
        raise FileError(
            "a device or a pipe, which a file would replace",
            where=str(path),
            remedy="Give the name of a file",
        )
    if not folder.is_dir():
        raise FileError(
            "the folder does not exist", where=str(folder), remedy="Make it, or choose another"
        )
    if not os.access(folder, os.W_OK):
        raise FileError(
            "the folder is not writable", where=str(folder), remedy="Choose another with -o"
        )
    if model is not None and path.resolve() in model.meta.get(SOURCES, ()):
        raise FileError(
            "would overwrite a file that the model is read from",
            where=str(path),
            remedy="Choose another output with -o",
        )


def save(model: ir.Model, path: str | Path) -> Written:
    """Write the model; an existing file stays whole until the new one is complete.

    Args:
        model: It stays as it is.
        path: Its file. More than 256 MB of weights go, one by one, into
            ``<stem>.<content hash>.data`` beside it.

    Returns:
        The paths that were written, with their sizes.

    Raises:
        FileError: The disk is full, the folder not writable, or the model is read from there.
    """
    path = Path(path)
    require_writable(path, model)
    total = sum(
        v.const_value.nbytes for v in _initializers(model) if v.const_value is not None
    )
    try:
        with contextlib.ExitStack() as undo:
            data = _write_data(model, path, undo) if total > INLINE_LIMIT else None
            with replacing(path) as file:
                for chunk in _chunks(model, data):
                    file.write(chunk)
            undo.pop_all()
    except OSError as error:
        raise FileError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            remedy="Make room or choose another output with -o",
        ) from error
    size = path.stat().st_size + (data[0].stat().st_size if data else 0)
    return Written(path=path, data=data[0] if data else None, size=size)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when the block ends well, and vanishes else."""
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview, *, option: str) -> None:
    """Write a file whole or not at all.

    Args:
        path: Where to.
        content: Its bytes.
        option: The one that chooses another place.

    Raises:
        FileError: It cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise FileError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            remedy=f"Make room, or choose another with {option}",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_data(
    model: ir.Model, path: Path, undo: contextlib.ExitStack
) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Write the data file; ``undo`` removes it unless it was there before."""
    places: dict[str, tuple[int, int]] = {}
    digest = hashlib.sha256()
    working = path.with_name(f".{path.stem}.data.part")
    try:
        with working.open("wb") as file, ThreadPoolExecutor(1) as beside:
            large = dict(_large(model))
            for name, content in zip(
                large, in_order(wire.content, large.values()), strict=True
            ):
                padding = -file.tell() % ALIGNMENT
                file.write(b"\0" * padding)
                places[name] = (file.tell(), len(content))
                hashed = beside.submit(digest.update, content)
                file.write(content)
                hashed.result()
            file.flush()
            os.fsync(file.fileno())
        target = path.with_name(f"{path.stem}.{digest.hexdigest()[:16]}.data")
        if not target.exists():
            undo.callback(target.unlink, missing_ok=True)
        working.replace(target)
    finally:
        working.unlink(missing_ok=True)
    return target, places


def _large(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """The weights that go into a data file."""
    for value in _initializers(model):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > LARGE and value.name is not None:
            yield value.name, tensor


def _chunks(
    model: ir.Model, data: tuple[Path, dict[str, tuple[int, int]]] | None
) -> Iterator[bytes | memoryview]:
    """The bytes of the file, in order."""
    if data is not None:
        yield _beside(model, *data).SerializeToString(deterministic=True)
        return
    emptied, held = wire.hollow(inlined(model), LARGE)
    yield from wire.chunks(ir.to_proto(emptied), held)


def _beside(
    model: ir.Model, target: Path, places: dict[str, tuple[int, int]]
) -> onnx.ModelProto:
    """The model with its weights in a data file."""
    clone = model.clone()
    for value in _initializers(clone):
        tensor = value.const_value
        if tensor is None or value.name not in places:
            continue
        offset, length = places[value.name]
        value.const_value = ir.ExternalTensor(
            target.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name,
            base_dir=target.parent,
        )
    return ir.to_proto(clone)


def inlined(model: ir.Model) -> ir.Model:
    """The model with no tensor left in a data file (a clone if any was)."""
    if not any(isinstance(v.const_value, ir.ExternalTensor) for v in _initializers(model)):
        return model
    clone = model.clone()
    for value in _initializers(clone):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return clone


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def data_files(model: ir.Model) -> set[Path]:
    """The files beside a model that hold weights of it."""
    tensors = (value.const_value for value in _initializers(model))
    return {Path(t.path) for t in tensors if isinstance(t, ir.ExternalTensor)}


def source_size(model: ir.Model) -> int:
    """Bytes of all files that the model was read from."""
    return sum(path.stat().st_size for path in model.meta[SOURCES])


def packed_weights(model: ir.Model) -> tuple[str, ...]:
    """Names of the weights that the file of this model holds packed."""
    found: tuple[str, ...] = model.meta.get(PACKED, ())
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; one that was not written since is not read again."""
    state = path.stat()
    with _HASHING:
        return _hash_of(path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns)


def hash_ahead(path: Path) -> None:
    """Have a file hashed beside other work; `file_hash` waits for it then."""

    def work() -> None:
        with contextlib.suppress(OSError):  # whoever asks for the hash hears of it
            file_hash(path)

    threading.Thread(target=work, daemon=True).start()


@functools.lru_cache(maxsize=64)
def _hash_of(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
