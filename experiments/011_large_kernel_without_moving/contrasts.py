"""The contrasts of the 2 x 2 that the study's page has not, over seeds: python contrasts.py FOLDER/runs.csv."""

import csv
import sys
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp

# By name: the weight of an arm's top-1, in the same seed.
CONTRASTS = {
    "kernel 7 against 3, not moved up": {"middle_k7": 1, "middle_k3": -1},
    "kernel 7 against 3, moved up": {"up_k7": 1, "up_k3": -1},
    "the second minus the first": {"up_k7": 1, "up_k3": -1, "middle_k7": -1, "middle_k3": 1},
    "moved up against not, kernel 3": {"up_k3": 1, "middle_k3": -1},
    "moved up against not, kernel 7": {"up_k7": 1, "middle_k7": -1},
    "moved up against not, kernel 7, at equal cost": {"up_k7": 1, "middle_k7_narrow": -1},
}


def main(table: Path) -> None:
    """Print the mean, its 95 % interval and the p-value of every contrast, in points of top-1, by validation set."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["weights"] == "raw"]
    for data in sorted({row["data"] for row in rows}):
        top1 = {(row["arm"], row["seed"]): float(row["top1"]) for row in rows if row["data"] == data}
        arms = {arm for weights in CONTRASTS.values() for arm in weights}
        seeds = sorted({seed for _, seed in top1}, key=int)
        whole = [seed for seed in seeds if all((arm, seed) in top1 for arm in arms)]
        print(f"{data}: seeds {', '.join(whole) or 'none'} have all arms" + ("" if whole == seeds else f" (of {len(seeds)})"))
        for name, weights in CONTRASTS.items() if len(whole) > 1 else ():
            differences = np.array([sum(weight * top1[arm, seed] for arm, weight in weights.items()) for seed in whole])
            test = ttest_1samp(differences, 0.0)
            low, high = test.confidence_interval()
            print(f"  {name}: {differences.mean():+.2f} ({low:+.2f} to {high:+.2f}, p = {test.pvalue:.3f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
