"""``tmkd``: chooses the verb, and imports only what that verb needs."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from tmkd_lightning.utils.configs import load_yaml
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.secrets import redact

LIGHTNING_VERBS = {
    "fit": "train a teacher or a student",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the test images",
    "predict": "predict with a config and a datamodule",
}
VERBS = {  # each is a module of this package
    "predict --images": "predict with a checkpoint alone, and write a CSV file",
    "export": "write the student of a checkpoint to a file for other programs",
    "report": "compare a student with its teacher: size, latency and accuracy",
    "figures": "draw figures of finished runs",
    "data": "check a dataset",
    "probe": "fit a linear head on a teacher, and write its checkpoint",
    "embed": "write text embeddings to a file, for machines without internet",
    "cache": "list, check or remove teacher caches",
}
_FUNCTIONS: dict[str, list[str]] = {  # of a verb whose module has others than one of its name
    "figures": ["draw"],
    "data": ["check", "resize"],
    "cache": ["list_caches", "check_caches", "remove_caches"],
}


class Parser(ArgumentParser):
    """jsonargparse's parser, with keys and passwords masked in errors, which repeat what was given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2."""
        message = re.sub(r"NestedArg\(key='([^']*)', val=", r"NestedArg(\1=", message)
        super().error(redact(message), ex)


def check_configs(words: Sequence[str]) -> None:
    """Raises ValueError for a config, of a run or a part of it, that cannot be read safely; skips missing files."""
    pairs = [*pairwise(words), *(word.split("=", 1) for word in words if "=" in word)]
    for option, value in pairs:
        is_config = option in ("--config", "-c") or (option.startswith("-") and value.endswith((".yaml", ".yml")))
        path = os.path.expanduser(value)
        if is_config and os.path.isfile(path):
            load_yaml(Path(path))


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``tmkd`` on `args`, by default those of the process.

    A verb of ours that fails on the process's arguments exits with status 2 and one message. Lightning's verbs, in
    which a user's code may be at fault, and calls with `args` leave exceptions as they are.
    """
    for message in (  # of libraries about themselves or each other
        r"(?s).*Jsonargparse.*",
        r"(?s).*was deprecated in v4\.\d+\.0 and will be removed in v5.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*does not have many workers.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    if os.getcwd() not in sys.path:  # a class_path may name a module of the user's project
        sys.path.append(os.getcwd())  # last: a yaml.py there is not the package yaml
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("--help", "-h"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    verb, options = words[0], {word.split("=")[0] for word in words}
    if verb not in VERBS and not (verb == "predict" and options & {"--images", "--checkpoint"}):
        if not verb.startswith("-") and verb not in LIGHTNING_VERBS:
            print(f"tmkd: error: there is no verb {printable(verb)}\n{_usage()}", file=sys.stderr)
            sys.exit(2)
        from tmkd_lightning.cli import lightning_cli

        lightning_cli.run(args)
        return
    try:
        check_configs(words)
        module = import_module(f"tmkd_lightning.cli.{verb}")
        if verb == "probe":  # which reads the config of a run
            module.run(args)
            return
        functions: Any = {name.split("_")[0]: getattr(module, name) for name in _FUNCTIONS.get(verb, [verb])}
        if len(functions) == 1:
            (functions,) = functions.values()
        auto_cli(functions, args=words[1:], as_positional=False, prog=f"tmkd {verb}", parser_class=Parser)
    except Exception as error:
        ours = type(error).__module__.startswith("tmkd_lightning.")  # such as CacheError
        if args is not None or not (ours or isinstance(error, (ValueError, OSError, ImportError))):
            raise  # a fault of the code, which keeps its traceback
        message = redact(printable(error, keep="\n"))
        print(f"tmkd {verb}: error: {message}", file=sys.stderr)
        sys.exit(2)


def _usage() -> str:
    verbs = "\n".join(f"  {verb:18}{text}" for verb, text in (LIGHTNING_VERBS | VERBS).items())
    return f"usage: tmkd <verb> [options]\n\nKnowledge distillation. Verbs:\n{verbs}\n\nOptions: tmkd <verb> --help"
