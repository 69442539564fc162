"""How soon a report opens: python opening.py report.html. Chromium, headless, three times; seconds to DOMContentLoaded."""

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WHEN = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd / 1000"


def main() -> None:
    """Print the three and their median."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        seconds = []
        for _ in range(3):
            page = browser.new_page()
            page.goto(Path(sys.argv[1]).resolve().as_uri())
            seconds.append(page.evaluate(WHEN))
            page.close()
    print(", ".join(f"{each:.2f}" for each in seconds), f"s; median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
