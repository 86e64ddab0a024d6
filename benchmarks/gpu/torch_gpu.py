"""PyTorch's GPU: 2:4 products through cuSPARSELt beside dense ones, timed in turn.

Only here is anything measured. Ten calls stand in one CUDA graph; graphs take turns, in an
order drawn anew for each round, and events time them. cuSPARSELt chooses its kernel by its own
search, cuBLASLt by its own rule. Weights stay in the cache between calls, which flatters all
variants alike.
"""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.pruned import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.gpu.pruned import Codes, Sums

CALLS = 10
"""Calls in a graph: one alone is about as short as an event can tell."""
WARM_UP = 0.5
SPARSE, DENSE = "sparse_int8", "dense_int8"
VARIANTS = (SPARSE, DENSE, "sparse_fp16", "dense_fp16")


class NotThere(Exception):
    """What is missing on this machine, in one line."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """Microseconds of a call: one figure per graph, and whether it was a graph."""

    microseconds: Sequence[float]
    graph: bool

    def as_json(self) -> dict[str, Any]:
        """Median, and p99 where there are enough graphs to tell."""
        taken = np.asarray(self.microseconds)
        p99 = float(np.percentile(taken, 99)) if len(taken) >= 100 else None
        return {
            "median_us": float(np.median(taken)),
            "p99_us": p99,
            "graphs": len(taken),
            "graph": self.graph,
        }


@dataclasses.dataclass(frozen=True)
class Measured:
    """One shape at a number of tokens.

    Attributes:
        times: By variant; why, where there is none.
        kernels: What a search chose for the sparse variants.
        equal: Whether the sparse product that was timed is the dense one; None: not compared.
    """

    times: Mapping[str, Timed | str]
    kernels: Mapping[str, Any]
    equal: bool | None


class Gpu:
    """PyTorch's first GPU.

    Raises:
        NotThere: No PyTorch, no GPU of Ampere or newer, or no cuSPARSELt.
    """

    def __init__(self) -> None:
        try:
            self._torch = torch = importlib.import_module("torch")
        except ImportError as error:
            raise NotThere(f"PyTorch cannot be loaded ({first_line(error)})") from error
        if not torch.cuda.is_available():
            raise NotThere("PyTorch finds no NVIDIA GPU here")
        if torch.cuda.get_device_capability() < (8, 0):
            raise NotThere("this GPU has no Sparse Tensor Cores; they came with Ampere")
        if not hasattr(torch, "_cslt_compress"):
            raise NotThere(f"PyTorch {torch.__version__} has no cuSPARSELt")
        try:
            self._compressed(np.zeros((BLOCK, BLOCK), np.int8))
        except RuntimeError as error:
            raise NotThere(f"cuSPARSELt refuses to work: {first_line(error)}") from error

    def about(self) -> dict[str, Any]:
        """Device, versions, and clocks as they are now."""
        torch = self._torch
        cslt = getattr(torch.backends, "cusparselt", None)
        fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw"
        return {
            "device": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "state": {
                "asked": fields,
                "answer": _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv"),
            },
            "versions": {
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cusparselt": None if cslt is None else cslt.version(),
            },
        }

    def product(self, codes: Codes, x: Codes) -> Sums:
        """Sparse INT8 with INT32 sums."""
        torch = self._torch
        result = torch._cslt_sparse_mm(
            self._compressed(codes), self._on(x).t(), out_dtype=torch.int32
        )
        return np.asarray(result.cpu().numpy(), np.int32)

    def times(self, codes: Codes, x: Codes, seconds: float) -> Measured:
        """Four variants in turn."""
        torch = self._torch
        weight, tokens = self._on(codes), self._on(x)
        half, half_tokens = weight.half() / 128, tokens.half() / 128  # FP16 sums must fit
        sparse, sparse_half = torch._cslt_compress(weight), torch._cslt_compress(half)
        kernel = self._searched(sparse, tokens.t(), torch.int32)
        half_kernel = self._searched(sparse_half, half_tokens.t(), None)
        calls: dict[str, Callable[[], Any]] = {
            SPARSE: lambda: self._sparse(sparse, tokens, torch.int32, kernel),
            DENSE: lambda: torch._int_mm(tokens, weight.t()),
            "sparse_fp16": lambda: self._sparse(sparse_half, half_tokens, None, half_kernel),
            "dense_fp16": lambda: half_tokens @ half.t(),
        }
        found: dict[str, Timed | str] = {}
        ready: dict[str, tuple[Callable[[], Any], bool]] = {}
        for name, call in calls.items():
            try:
                ready[name] = self._repeated(call)
            except RuntimeError as error:
                found[name] = first_line(error)
        taken = self._in_turn({name: start for name, (start, _) in ready.items()}, seconds)
        for name, microseconds in taken.items():
            found[name] = Timed(microseconds, graph=ready[name][1])
        equal = None
        if SPARSE in ready and DENSE in ready:
            equal = bool(torch.equal(calls[SPARSE](), calls[DENSE]().t()))
        kernels = {SPARSE: kernel, "sparse_fp16": half_kernel}
        return Measured(times=found, kernels=kernels, equal=equal)

    def _sparse(self, weight: Any, x: Any, out_dtype: Any, kernel: Mapping[str, Any]) -> Any:
        """``weight @ x.T`` by the kernel that a search chose."""
        return self._torch._cslt_sparse_mm(
            weight, x.t(), None, None, out_dtype, False, *kernel.values()
        )

    def _on(self, array: Codes) -> Any:
        return self._torch.from_numpy(array).cuda()

    def _compressed(self, codes: Codes) -> Any:
        return self._torch._cslt_compress(self._on(codes))

    def _searched(self, sparse: Any, dense: Any, out_dtype: Any) -> dict[str, Any]:
        """What cuSPARSELt's own search chooses, as arguments of the product in order."""
        torch = self._torch
        search = getattr(getattr(torch._C, "_cusparselt", None), "mm_search", None)
        if search is not None:
            found = search(sparse, dense, None, None, out_dtype, False)
            return dict(zip(("algorithm", "split_k", "split_k_mode"), found, strict=False))
        return {"algorithm": torch._cslt_sparse_mm_search(sparse, dense, out_dtype=out_dtype)}

    def _repeated(self, call: Callable[[], Any]) -> tuple[Callable[[], Any], bool]:
        """What starts ten calls: a graph where it can be captured, else a loop."""
        torch = self._torch

        def loop() -> None:
            for _ in range(CALLS):
                call()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loop()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                loop()
        except RuntimeError:
            torch.cuda.synchronize()
            return loop, False
        return graph.replay, True

    def _in_turn(
        self, starts: Mapping[str, Callable[[], Any]], seconds: float
    ) -> dict[str, list[float]]:
        """Microseconds of a call, by variant; half a second warms up."""
        torch = self._torch
        first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        taken: dict[str, list[float]] = {name: [] for name in starts}
        draw = np.random.default_rng(0)
        begin = time.perf_counter()
        while (now := time.perf_counter() - begin) < WARM_UP + seconds * len(starts):
            for name in draw.permutation(list(starts)):
                first.record()
                starts[str(name)]()
                second.record()
                torch.cuda.synchronize()
                if now > WARM_UP:
                    taken[str(name)].append(1000 * first.elapsed_time(second) / CALLS)
        return taken


def _output(*command: str) -> str:
    """What a program prints; empty where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def first_line(error: BaseException) -> str:
    """Of a foreign message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
