"""``tmkd``: chooses the verb, and imports only what that verb needs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from tmkd_lightning.cli.parser import check_configs
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.secrets import masked

LIGHTNING_VERBS = {
    "fit": "train a teacher or a student",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the test images",
    "predict": "predict with a config and a datamodule",
}
VERBS = {  # each is a module of this package with a function <verb>_command
    "predict --images": "predict with a checkpoint alone, and write a CSV file",
    "export": "write the student of a checkpoint to a file for other programs",
    "figures": "draw figures of finished runs",
    "data": "check a dataset",
    "embed": "write text embeddings to a file, for machines without internet",
    "cache": "list, check or remove teacher caches",
}

_NOISE = (  # warnings of libraries about themselves or each other
    r"(?s).*Jsonargparse.*",
    r"(?s).*was deprecated in v4\.\d+\.0 and will be removed in v5.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
)


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``tmkd``.

    Args:
        args: command-line arguments; None for those of the process.

    Raises:
        SystemExit: with status 2 and one message, where a verb of ours fails on the process's arguments. Lightning's
            verbs, in which a user's code may be at fault, and calls with `args` leave exceptions as they are.
    """
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    if os.getcwd() not in sys.path:  # a class_path may name a module of the user's project
        sys.path.append(os.getcwd())  # last: a yaml.py there is not the package yaml
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("--help", "-h"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    verb = _verb(words)
    if verb is None:
        if not words[0].startswith("-") and words[0] not in LIGHTNING_VERBS:
            print(f"tmkd: error: there is no verb {printable(words[0])}\n{_usage()}", file=sys.stderr)
            sys.exit(2)
        from tmkd_lightning.cli import lightning_cli

        lightning_cli.run(args)
        return
    try:
        check_configs(words)
        name = words[0]
        getattr(import_module(f"tmkd_lightning.cli.{name}"), f"{name}_command")(words[1:])
    except Exception as error:
        ours = type(error).__module__.startswith("tmkd_lightning.")  # such as CacheError
        if args is not None or not (ours or isinstance(error, (ValueError, OSError, ImportError))):
            raise  # a fault of the code, which keeps its traceback
        message = masked(printable(error, keep="\n"))
        print(f"tmkd {words[0]}: error: {message}", file=sys.stderr)
        sys.exit(2)


def _usage() -> str:
    verbs = "\n".join(f"  {verb:18}{text}" for verb, text in (LIGHTNING_VERBS | VERBS).items())
    return f"usage: tmkd <verb> [options]\n\nKnowledge distillation. Verbs:\n{verbs}\n\nOptions: tmkd <verb> --help"


def _verb(words: Sequence[str]) -> str | None:
    """The verb of ours that is meant, or None for Lightning's, which has a ``predict`` too."""
    ours = words[0] == "predict" and any(word.split("=")[0] in ("--images", "--checkpoint") for word in words)
    verb = "predict --images" if ours else words[0]
    return verb if verb in VERBS else None
