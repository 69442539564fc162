"""The benchmark of loading, whose contenders load whole epochs."""

from pathlib import Path

import pytest
from samples import tool_module

from jpegcurr.encoding.beton.reader import Beton


def test_our_loaders_give_whole_epochs(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tool_module("bench/loader.py", monkeypatch)
    beton = Beton(betons / "train-source.beton")
    options = bench.Options(size=32, batch=8, workers=1)
    assert bench.available_loaders()
    for name in bench.available_loaders():
        loader = bench.open_ours(name, bench.create_sampler({"source": beton}, options))
        assert bench.loader_contender(name, "source", beton, loader.at).run(0) == len(beton)
