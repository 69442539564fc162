"""The benchmark of Grad-CAM, whose contenders explain the same and do not slow each other down."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import tool_module

from jpegcurr.runtime import resolve_runtime


@pytest.mark.filterwarnings("ignore")
def test_contenders_explain_the_same_and_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tool_module("bench/cam.py", monkeypatch)
    options = bench.Options("test_convnext", size=64, batch=2, batches=1, layer=None)
    contenders, layer = bench.open_contenders(options, resolve_runtime("cpu"))
    maps, theirs, logits = (contenders[name]() for name in (bench.OURS, bench.THEIRS, bench.FORWARD))
    assert layer == "stages.3"
    assert (maps.shape, theirs.shape, logits.shape) == ((2, 2, 2), (2, 64, 64), (2, bench.CLASSES))
    assert theirs.max() > 0.5
    assert bench.levels_apart(maps, theirs) < 0.1
    assert bench.levels_apart(maps[:, ::-1], theirs) > 10
    assert np.array_equal(contenders[bench.OURS](), maps)
    argv = "bench_cam.py --model test_convnext --size 64 --batch 2 --batches 1 --runs 1 --device cpu --json metrics.jsonl"
    monkeypatch.setattr(sys, "argv", argv.split())
    bench.main()
    metrics = json.loads(Path("metrics.jsonl").read_text())["figures"]
    assert set(metrics["images_per_second"]) == {"ours", "pytorch-grad-cam", "a bare forward pass"}
    assert "required: 3.0" in capsys.readouterr().out
