"""Which device a worker uses, what it can do, and the flags that make it repeat itself. Only workers call this: it
imports torch.

The benchmark is short (well under a second a device) and honest rather than kind: what is advertised is measured here,
and others measure it again (DESIGN.md 7.2).
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compute.jobs import DeviceReport
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    import torch

CPU_MATRIX = 768
"""Rows of the square matrices that a CPU multiplies: 0.9 GFLOP, about 10 ms on one core."""

GPU_MATRIX = 4096
"""0.14 TFLOP: a millisecond or so on a large GPU, enough to fill it."""

LINK_BYTES = 64 << 20
REPETITIONS = 5

GIGA = 10**9

TORCH_MISSING = (
    "torch is not installed; run `python -m pip install -c constraints.txt torch`, "
    "or choose a build for your GPU as the README says"
)
CUDA_MISSING = (
    "this machine has an NVIDIA GPU, but torch was built without CUDA; install a CUDA build of torch "
    "(see the README), or start with --device cpu"
)


def choose_device(option: str, threads: int = 1) -> DeviceReport:
    """Check an option ("auto", "cpu", "cuda" or "cuda:N"), set torch up for it, and measure it.

    "auto" takes the CUDA device with the most memory, else the CPU; it never falls back silently from a GPU that is
    there but unusable. Raises Rejected(BAD_DEVICE) with the remedy, Rejected(BAD_ARGUMENT) for an option that is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", option):
        raise Rejected(Reason.BAD_ARGUMENT, f"--device is {option!r}; it must be auto, cpu or cuda:N")
    torch = import_torch()
    configure(torch, threads)
    device = torch.device(_device_name(torch, option))
    return _report_gpu(torch, device, threads) if device.type == "cuda" else _report_cpu(torch, threads)


def import_torch() -> Any:
    """torch, or Rejected(BAD_DEVICE) that says how to get it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise Rejected(Reason.BAD_DEVICE, f"{TORCH_MISSING} ({error})") from None


def configure(torch: Any, threads: int) -> None:
    """Make results repeat: fixed threads, deterministic kernels, full float32 (no TF32) on GPUs."""
    torch.set_num_threads(max(1, threads))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # NaN in every new tensor finds bugs, and costs time
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def tier(memory_bytes: int, float16_gigaflops: int, link_megabytes_per_second: int) -> int:
    """DESIGN.md 7.2 in integers: min(9, floor((0.5 GB of memory + 2 TFLOPS + 0.2 GB/s of link) / 10)), all decimal units."""
    thousandths = memory_bytes // 2_000_000 + 2 * float16_gigaflops + link_megabytes_per_second // 5
    return min(9, thousandths // 10_000)


def gpu_present() -> bool:
    """Whether the machine shows an NVIDIA GPU, whatever torch thinks."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _device_name(torch: Any, option: str) -> str:
    if option == "cpu":
        return option
    if not torch.cuda.is_available():
        if gpu_present() and torch.version.cuda is None:
            raise Rejected(Reason.BAD_DEVICE, CUDA_MISSING)
        if option == "auto":
            return "cpu"
        raise Rejected(Reason.BAD_DEVICE, f"{option} was asked for, but torch finds no CUDA device; use --device cpu")
    count = torch.cuda.device_count()
    if option == "auto":
        memories = [torch.cuda.get_device_properties(index).total_memory for index in range(count)]
        return f"cuda:{memories.index(max(memories))}"
    index = int(option.partition(":")[2] or 0)
    if index >= count:
        raise Rejected(Reason.BAD_DEVICE, f"{option} was asked for, but there are {count} CUDA devices, from cuda:0")
    return f"cuda:{index}"


def _report_cpu(torch: Any, threads: int) -> DeviceReport:
    a = torch.ones(CPU_MATRIX, CPU_MATRIX)
    seconds = _fastest_seconds(lambda: torch.mm(a, a), lambda: None)
    gigaflops = int(2 * CPU_MATRIX**3 / seconds / GIGA)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return DeviceReport(
        device="cpu",
        name=_cpu_name(),
        threads=max(1, threads),
        float32_gigaflops=gigaflops,
        float16_gigaflops=gigaflops,  # float16 on a CPU is no faster: the worker would use float32
        link_megabytes_per_second=0,
        memory_bytes=memory_bytes,
        tier=tier(0, gigaflops, 0),  # the formula counts video memory; a CPU has none
        torch_version=str(torch.__version__),
    )


def _report_gpu(torch: Any, device: torch.device, threads: int) -> DeviceReport:
    def wait() -> None:
        torch.cuda.synchronize(device)

    def gigaflops(dtype: torch.dtype) -> int:
        a = torch.ones(GPU_MATRIX, GPU_MATRIX, dtype=dtype, device=device)
        return int(2 * GPU_MATRIX**3 / _fastest_seconds(lambda: torch.mm(a, a), wait) / GIGA)

    pinned = torch.empty(LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(LINK_BYTES, dtype=torch.uint8, device=device)
    link = int(LINK_BYTES / _fastest_seconds(lambda: target.copy_(pinned, non_blocking=True), wait) / 10**6)
    properties = torch.cuda.get_device_properties(device)
    float16 = gigaflops(torch.float16)
    return DeviceReport(
        device=str(device),
        name=str(properties.name),
        threads=max(1, threads),
        float32_gigaflops=gigaflops(torch.float32),
        float16_gigaflops=float16,
        link_megabytes_per_second=link,
        memory_bytes=int(properties.total_memory),
        tier=tier(int(properties.total_memory), float16, link),
        torch_version=str(torch.__version__),
    )


def _fastest_seconds(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """The fastest of a few runs after one to warm up: what the device can do when nobody disturbs it."""
    work()
    wait()
    seconds = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return max(min(seconds), 1e-9)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
