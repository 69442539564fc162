"""Entry point of ``python -m jpegcurr``, which is the command ``jpegcurr``."""

from jpegcurr.cli import main

if __name__ == "__main__":
    main()
