"""FAKES of the ``tensorrt`` module: one per version, without NVIDIA's code behind them.

A fake has the names of the real bindings of its version and no others: whatever a version
lacks raises AttributeError here as there. The names were listed with ``dir()`` from the wheels
that ``api.json`` names. A fake records what it is asked, refuses arguments that the real
bindings would refuse, and answers with what a test gives it; it builds nothing, so a test with
a fake shows how the API is used and never what TensorRT would do.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

API: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "api.json").read_text())
VERSIONS = tuple(API)
SERIALIZED = b"an engine, as far as this fake is concerned"


class Lacking(AttributeError):
    """The version has no such name."""


class FakeMember:
    """A member of an enumeration."""

    def __init__(self, kind: str, name: str, value: int) -> None:
        self.kind, self.name, self._value = kind, name, value

    def __int__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"{self.kind}.{self.name}"


class FakeEnum:
    """An enumeration with the members of a version; numbers differ between versions."""

    def __init__(self, kind: str, names: list[str], offset: int) -> None:
        self._kind = kind
        for value, name in enumerate(names):
            setattr(self, name, FakeMember(kind, name, value + offset))

    def __getattr__(self, name: str) -> Any:
        raise Lacking(f"{self._kind} has no {name}")


class FakeObject:
    """An object with the names of a class of the version; the module records their use."""

    kind = ""

    def __init__(self, trt: FakeTensorRT) -> None:
        object.__setattr__(self, "_trt", trt)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "kind":
            trt, kind = object.__getattribute__(self, "_trt"), type(self).kind
            trt.require(kind, name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            self._trt.require(self.kind, name)
            self._trt.calls.append((f"{self.kind}.{name}", value))
        object.__setattr__(self, name, value)

    def _record(self, name: str, *arguments: object) -> None:
        self._trt.calls.append((f"{self.kind}.{name}", *arguments))


class FakePlan(bytes):
    """An IHostMemory: a buffer that knows its size."""

    @property
    def nbytes(self) -> int:
        return len(self)


class FakeTensor(FakeObject):
    kind = "ITensor"

    def __init__(self, trt: FakeTensorRT, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(trt)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "is_shape_tensor", name in trt.shape_inputs)


class FakeNetwork(FakeObject):
    kind = "INetworkDefinition"

    def __init__(self, trt: FakeTensorRT, flags: int) -> None:
        super().__init__(trt)
        self._flags = flags
        self._inputs: list[FakeTensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> FakeTensor:
        return self._inputs[index]


class FakeError(FakeObject):
    kind = "ParserError"

    def __init__(self, trt: FakeTensorRT, number: int, node: onnx.NodeProto) -> None:
        super().__init__(trt)
        self._number, self._node = number, node

    def node(self) -> int:
        return self._number

    def desc(self) -> str:
        return f"No importer registered for op: {self._node.op_type}"

    def code(self) -> object:
        return SimpleNamespace(name="UNSUPPORTED_NODE")

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class FakeParser(FakeObject):
    kind = "OnnxParser"

    def __init__(self, trt: FakeTensorRT, network: FakeNetwork, logger: object) -> None:
        super().__init__(trt)
        trt.require_logger(logger)
        # As the real one, which reads freed memory when a network dies before its parser.
        self._network = network
        self._errors: list[FakeError] = []

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str), "the real one takes no Path"
        self._record("parse_from_file", model)
        proto = onnx.load(model)
        for number, node in enumerate(proto.graph.node):
            if node.op_type in self._trt.unknown_operators:
                self._errors.append(FakeError(self._trt, number, node))
        constants = {tensor.name for tensor in proto.graph.initializer}
        for value in proto.graph.input:
            if value.name not in constants:
                dims = value.type.tensor_type.shape.dim
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
                self._network._inputs.append(FakeTensor(self._trt, value.name, shape))
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> FakeError:
        return self._errors[index]


class FakeProfile(FakeObject):
    kind = "IOptimizationProfile"

    def __init__(self, trt: FakeTensorRT) -> None:
        super().__init__(trt)
        self._shapes: dict[str, tuple[object, ...]] = {}

    def set_shape(self, input: str, min: object, opt: object, max: object) -> None:  # noqa: A002
        for shape in (min, opt, max):
            assert isinstance(shape, tuple)
        self._record("set_shape", input, min, opt, max)
        self._shapes[input] = (min, opt, max)


class FakeTimingCache(FakeObject):
    kind = "ITimingCache"

    def __init__(self, trt: FakeTensorRT, content: bytes) -> None:
        super().__init__(trt)
        self._content = content

    def serialize(self) -> FakePlan:
        return FakePlan(self._content + b"|timed")


class FakeConfig(FakeObject):
    kind = "IBuilderConfig"

    def __init__(self, trt: FakeTensorRT) -> None:
        super().__init__(trt)
        self._flags: set[str] = set()
        self._profiles: list[FakeProfile] = []
        self._cache = FakeTimingCache(trt, b"")

    def set_flag(self, flag: FakeMember) -> None:
        assert flag.kind == "BuilderFlag"
        self._record("set_flag", flag.name)
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool: FakeMember, pool_size: int) -> None:
        assert pool.kind == "MemoryPoolType"
        self._record("set_memory_pool_limit", pool.name, pool_size)

    def add_optimization_profile(self, profile: FakeProfile) -> int:
        self._record("add_optimization_profile")
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> FakeTimingCache:
        assert isinstance(serialized_timing_cache, bytes)
        return FakeTimingCache(self._trt, serialized_timing_cache)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        self._record("set_timing_cache", cache._content, ignore_mismatch)
        self._cache = cache
        return cache._content != b"of another GPU"

    def get_timing_cache(self) -> FakeTimingCache:
        return self._cache


class FakeRegistry(FakeObject):
    kind = "IPluginRegistry"

    def load_library(self, plugin_path: str) -> object | None:
        assert isinstance(plugin_path, str)
        self._record("load_library", plugin_path)
        return None if "broken" in plugin_path else object()


class FakeBuilder(FakeObject):
    kind = "Builder"

    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        super().__init__(trt)
        trt.require_logger(logger)
        if trt.builder_fails:
            logger.log(trt.severity("ERROR"), "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> FakeNetwork:
        self._record("create_network", self._trt.creation_flags(flags))
        return FakeNetwork(self._trt, flags)

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig(self._trt)

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile(self._trt)

    def get_plugin_registry(self) -> FakeRegistry:
        return FakeRegistry(self._trt)

    def build_serialized_network(
        self, network: FakeNetwork, config: FakeConfig
    ) -> FakePlan | None:
        """None, with an error in the log, where the documentation promises one."""
        complaint = self._trt.complaint(network, config)
        if complaint:
            self._logger.log(self._trt.severity("ERROR"), complaint)
            return None
        for line in self._trt.log:
            self._logger.log(self._trt.severity("VERBOSE"), line)
        self._record("build_serialized_network", sorted(config._flags))
        return FakePlan(SERIALIZED)


class FakeInspector(FakeObject):
    kind = "EngineInspector"

    def get_engine_information(self, format: FakeMember) -> str:  # noqa: A002
        assert format.name == "JSON"
        self._record("get_engine_information")
        return str(self._trt.inspected)


class FakeContext(FakeObject):
    kind = "IExecutionContext"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._record("set_input_shape", name, shape)
        return True


class FakeEngine(FakeObject):
    kind = "ICudaEngine"

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self._trt)

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector(self._trt)


class FakeRuntime(FakeObject):
    kind = "Runtime"

    def __init__(self, trt: FakeTensorRT, logger: object) -> None:
        super().__init__(trt)
        trt.require_logger(logger)

    def deserialize_cuda_engine(self, serialized_engine: FakePlan) -> FakeEngine | None:
        assert bytes(serialized_engine) == SERIALIZED
        return None if self._trt.engine_fails else FakeEngine(self._trt)


class FakeTensorRT:
    """FAKE. The module, with what a test decides about it.

    Attributes:
        calls: What was asked: the name and the arguments.
        used: Names that were looked up, by class.
        unknown_operators: What the parser refuses.
        shape_inputs: Inputs whose values are shapes.
        log: Lines that the builder logs.
        inspected: What the inspector answers.
    """

    def __init__(self, version: str, **behaviour: Any) -> None:
        table = API[version]
        self.calls: list[tuple[Any, ...]] = []
        self.used: set[tuple[str, str]] = set()
        self.unknown_operators: tuple[str, ...] = ()
        self.shape_inputs: tuple[str, ...] = ()
        self.log: tuple[str, ...] = ()
        self.inspected = '{"Layers": []}'
        self.builder_fails = self.engine_fails = False
        self._version = version
        self._names = {kind: set(names.split()) for kind, names in table.items()}
        self._logger: object = None
        vars(self).update(behaviour)
        self.__version__ = f"{version}.1.2" if version != "8.6" else "8.6.1"
        self.__name__ = "tensorrt"
        for offset, kind in enumerate(table):
            if kind in ENUMS:
                setattr(self, kind, FakeEnum(kind, table[kind].split(), offset % 3))
        self.ILogger = type("ILogger", (), {"__init__": lambda logger: None})

    def __getattr__(self, name: str) -> Any:
        self.require("module", name)
        classes = {"Builder": FakeBuilder, "OnnxParser": FakeParser, "Runtime": FakeRuntime}
        if name in classes:
            return lambda *arguments: classes[name](self, *arguments)
        if name == "init_libnvinfer_plugins":
            return self._init_plugins
        raise NotImplementedError(f"this fake has no {name} yet")

    def _init_plugins(self, logger: object, namespace: str) -> bool:
        self.require_logger(logger)
        self.calls.append(("init_libnvinfer_plugins", namespace))
        return True

    def require(self, kind: str, name: str) -> None:
        """Raise where the version lacks a name."""
        if name not in self._names[kind]:
            raise Lacking(f"{kind} of TensorRT {self._version} has no {name}")
        self.used.add((kind, name))

    def require_logger(self, logger: object) -> None:
        """TensorRT keeps the first logger of a process and warns of another."""
        assert isinstance(logger, self.ILogger)
        assert self._logger in {None, logger}, "a second logger"
        self._logger = logger

    def severity(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name)

    def creation_flags(self, flags: int) -> list[str]:
        """The names of the bits in the flags of a network."""
        kind = "NetworkDefinitionCreationFlag"
        members = [getattr(getattr(self, kind), name) for name in sorted(self._names[kind])]
        return [member.name for member in members if flags >> int(member) & 1]

    def complaint(self, network: FakeNetwork, config: FakeConfig) -> str:
        """What the documentation says that a build of this version fails with."""
        created = self.creation_flags(network._flags)
        allowed = {"FP16", "INT8"} & config._flags
        explicit = "EXPLICIT_BATCH" in self._names["NetworkDefinitionCreationFlag"]
        if self._version == "8.6" and explicit and "EXPLICIT_BATCH" not in created:
            return "Network must have explicit batch"
        if "STRONGLY_TYPED" in created and allowed:
            return f"Strongly typed networks take no {sorted(allowed)[0]}"
        given = set().union(*(profile._shapes for profile in config._profiles))
        lacking = [
            one.name for one in network._inputs if -1 in one.shape and one.name not in given
        ]
        if lacking:
            return (
                "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has "
                "dynamic or shape inputs, but no optimization profile has been defined. In "
                "validate at optimizer/api/network.cpp:4023)"
            )
        return ""


ENUMS = frozenset(
    {
        "BuilderFlag",
        "DataType",
        "HardwareCompatibilityLevel",
        "LayerInformationFormat",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
        "ProfilingVerbosity",
        "TensorIOMode",
    }
)


class FakeDriver:
    """FAKE. The NVIDIA driver's library, as far as it is asked."""

    def __init__(
        self, count: int = 1, capability: tuple[int, int] = (8, 6), status: int = 0
    ) -> None:
        self._count, self._capability, self._status = count, capability, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._count
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        assert ordinal < self._count
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = b"a fake GPU"
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self._capability[{75: 0, 76: 1}[which]]
        return 0
