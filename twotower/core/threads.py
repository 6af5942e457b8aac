"""How many threads a command computes with: the processor cores that it may use and that are idle."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def use_threads(threads: int | None) -> None:
    """Let the libraries that are loaded compute with so many threads; None: as `idle_cores` says.

    OMP_NUM_THREADS, which the user or torchrun has set, is left as it is unless `threads` is given.
    """
    if threads is None:
        if "OMP_NUM_THREADS" in os.environ:
            return
        threads = idle_cores()
        cores = os.cpu_count() or 1
        if threads < cores:
            load = os.getloadavg()[0]
            log.info("%d of %d cores are used (threads=N changes that): load average %.1f", threads, cores, load)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(threads)


def idle_cores() -> int:
    """Return how many of the available cores other processes leave idle, at least 1.

    On a busy machine threads that wait for each other are several times slower than one alone.
    """
    busy = os.getloadavg()[0]
    return max(1, min(available_cores(), round((os.cpu_count() or 1) - busy)))


def available_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return how many cores this process may use: the least of affinity, a job's share and a container's quota."""
    limits: list[float] = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    if (share := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdecimal():
        limits.append(int(share))
    return max(1, int(min([*limits, *_quotas(cgroups, own)])))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Quotas in cores of this process's control groups and of those above them, of versions 1 and 2."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        for folder in [root / path.lstrip("/"), *(root / path.lstrip("/")).parents]:
            if folder.is_relative_to(root):
                older = (*_read(folder / "cpu.cfs_quota_us"), *_read(folder / "cpu.cfs_period_us"))
                quota, period = _read(folder / "cpu.max") or older or ("max", "1")
                if quota.isdecimal():
                    yield int(quota) / int(period)


def _read(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text().split())
    except OSError:
        return ()
