"""``python -m tmkd_lightning`` is ``tmkd``."""

from tmkd_lightning.cli.main import main

if __name__ == "__main__":
    main()
