"""The benchmark of a JPEG's round trip, whose contenders are compared with Pillow's pixels."""

import json
import sys
from pathlib import Path

import pytest
from samples import tool_module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torchvision's, whose codec is a contender
def test_exact_contenders_are_exact_and_measured(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tool_module("bench/jpeg.py", monkeypatch)
    options = "--size 32 --limit 5 --batch 2 --runs 1 --no-compile --device cpu --json out.jsonl"
    monkeypatch.setattr(sys, "argv", ["jpeg.py", str(photos), *options.split()])
    bench.main()
    metrics = json.loads(Path("out.jsonl").read_text())["figures"]
    for name in (bench.PILLOW, bench.OURS, bench.TRANSFORM, bench.TORCHVISION):
        assert metrics[name]["images_per_second"] > 0
        assert (metrics[name]["levels_mean"], metrics[name]["levels_largest"]) == (0, 0)
    assert "of Pillow" in capsys.readouterr().out
    images = bench.squares(photos, 1, 32)
    assert bench.distance(images, bench.by_pillow(images, 10, "420"))[1] > 5
