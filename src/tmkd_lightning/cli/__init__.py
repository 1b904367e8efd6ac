"""The verbs of ``tmkd`` that are ours, a file each; Lightning's own are in `tmkd_lightning.cli.main`."""
