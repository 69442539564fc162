"""``python -m jpegcurr`` is ``jpegcurr``."""

from jpegcurr.cli import main

if __name__ == "__main__":
    main()
