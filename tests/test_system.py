"""Processors and memory within the limits of a container."""

import os
from pathlib import Path

import pytest

from jpegcurr import system

GROUPS: dict[str, tuple[dict[str, str], float]] = {
    "no limit (2)": ({"cpu.max": "max 100000\n"}, float("inf")),
    "one and a half (2)": ({"cpu.max": "150000 100000\n"}, 1.5),
    "no limit (1)": ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
    "three (1)": ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
    "none": ({}, float("inf")),
    "strange": ({"cpu.max": "what\n"}, float("inf")),
}


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("mask", [1, 2, 64])
def test_processors_are_limited_by_the_mask_and_the_cgroup(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, name: str, mask: int
) -> None:
    files, quota = GROUPS[name]
    write(cgroup, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(mask)))
    assert system.available_cpus() == max(1, min(mask, -(-quota // 1)))


def test_a_task_of_a_study_has_its_share_of_the_processors(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    for share, count in (("3", 3), ("64", 8), ("", 8), ("many", 8)):
        monkeypatch.setenv("JPEGCURR_CPUS", share)
        assert system.available_cpus() == count


def test_a_tenth_of_a_processor_is_one(cgroup: Path) -> None:
    write(cgroup, {"cpu.max": "10000 100000\n"})
    assert system.available_cpus() == 1


def test_memory_is_the_rest_of_the_cgroup_and_its_file_cache(cgroup: Path) -> None:
    write(
        cgroup,
        {"memory.max": "1000000\n", "memory.current": "900000\n", "memory.stat": "anon 5\nactive_file 7\ninactive_file 300\n"},
    )
    assert system.available_memory() == 100_307
    write(cgroup, {"memory.max": "max\n"})
    everything = system.available_memory()
    assert 1 << 20 < everything <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_of_an_older_cgroup(cgroup: Path) -> None:
    names = ("limit_in_bytes", "usage_in_bytes", "stat")
    write(cgroup, {f"memory/memory.{name}": text for name, text in zip(names, ("500000\n", "1000\n", "rss 3\n"), strict=True)})
    assert system.available_memory() == 499_000
