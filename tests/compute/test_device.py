"""The device is chosen by name or by memory, measured, and a missing one is explained."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from compute.io.device import choose_device, tier
from protocol.rejection import Reason, Rejected


def test_the_cpu_is_measured():
    """Integers that an advert can carry; threads are set as asked."""
    report = choose_device("cpu", threads=1)
    assert report.device == "cpu"
    assert report.float32_gigaflops >= 1
    assert report.memory_bytes > 2**28
    assert report.link_megabytes_per_second == 0
    assert torch.get_num_threads() == report.threads == 1


@pytest.mark.parametrize("option", ["gpu", "cuda:", "cuda:x", "", "cpu ", "cuda:0\n", "mps"])
def test_an_option_that_is_none_is_the_users_mistake(option):
    """With the options that are."""
    with pytest.raises(Rejected, match="cuda:N") as refused:
        choose_device(option)
    assert refused.value.reason is Reason.BAD_ARGUMENT


def test_a_device_that_is_not_there_is_refused_with_the_remedy():
    """cuda:99 exists nowhere."""
    with pytest.raises(Rejected) as refused:
        choose_device("cuda:99")
    assert refused.value.reason is Reason.BAD_DEVICE


def test_without_torch_the_remedy_is_said():
    """In a process where torch cannot be imported."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from compute.io.device import choose_device\n"
        "from protocol.rejection import Rejected\n"
        "try: choose_device('auto')\n"
        "except Rejected as rejected: print(rejected.reason.code, rejected.detail)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bad_device torch is not installed; run")


@pytest.mark.parametrize(
    ("memory_gb", "teraflops", "link_gbps", "expected"),
    [(0, 0.1, 0, 0), (24, 0, 0, 1), (8, 10, 12, 2), (24, 40, 25, 9), (80, 312, 64, 9)],
)
def test_tiers_follow_the_formula(memory_gb, teraflops, link_gbps, expected):
    """min(9, floor((0.5 GB + 2 TFLOPS + 0.2 GB/s) / 10))."""
    assert tier(memory_gb * 10**9, int(teraflops * 1000), link_gbps * 1000) == expected


@pytest.mark.gpu
def test_a_gpu_is_preferred_and_measured():
    """auto takes it; what it can do is more than nothing."""
    report = choose_device("auto")
    assert report.device.startswith("cuda:")
    assert min(report.float32_gigaflops, report.float16_gigaflops, report.link_megabytes_per_second) > 0
    assert report.tier == tier(report.memory_bytes, report.float16_gigaflops, report.link_megabytes_per_second)
