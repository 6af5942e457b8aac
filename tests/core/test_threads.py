"""How many threads: of affinity, job, container and load the least, against hand-made control groups."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from twotower.core import threads


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores with nothing to do."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 9.0, 9.0))
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("", {}, 16),
    ],
)
def test_a_container_s_quota_limits(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content)
    assert threads.available_cores(tmp_path / "groups", tmp_path / "own") == expected


@pytest.mark.parametrize(("load", "affinity", "share", "expected"), [
    (0.2, 16, "", 16), (13.1, 16, "", 3), (40.0, 16, "", 1), (0.0, 5, "", 5), (0.0, 16, "6", 6), (12.0, 8, "6", 4),
])  # fmt: skip
def test_the_least_of_load_affinity_and_job(
    monkeypatch: pytest.MonkeyPatch, load: float, affinity: int, share: str, expected: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", share)
    monkeypatch.setattr(threads, "_quotas", lambda *_: iter(()))
    assert threads.idle_cores() == expected


def test_what_the_user_says_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=chosen.append))
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(omp_set_num_threads=chosen.append))
    monkeypatch.setattr(threads, "idle_cores", lambda: 3)
    threads.use_threads(None)
    threads.use_threads(7)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.use_threads(None)
    threads.use_threads(5)
    assert chosen == [3, 3, 7, 7, 5, 5]
