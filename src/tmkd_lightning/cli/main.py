"""``tmkd``: chooses the verb, and imports only what that verb needs."""

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from tmkd_lightning.cli.arguments import config_files
from tmkd_lightning.cli.errors import COMMAND, DEBUG, Construction, command, debugging, explain, explain_parsing
from tmkd_lightning.cli.parser_errors import did_you_mean
from tmkd_lightning.utils.configs import load_yaml
from tmkd_lightning.utils.messages import printable

LIGHTNING_VERBS = {
    "fit": "train a teacher or a student",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the test images",
    "predict": "predict with a config and a datamodule",
}
VERBS = {  # each is a module of this package
    "new": "look at data, and write the configs of a teacher and a student",
    "predict --images": "predict with a checkpoint alone, and write a CSV file",
    "export": "write the student of a checkpoint to a file for other programs",
    "report": "compare a student with its teacher: size, latency and accuracy",
    "figures": "draw figures of finished runs",
    "data": "check a dataset, copy it smaller, or write it as shards",
    "probe": "fit a linear head on a teacher, and write its checkpoint",
    "embed": "write text embeddings to a file, for machines without internet",
    "cache": "fill teacher caches without training, list, check or remove them",
}
_FUNCTIONS: dict[str, list[str]] = {  # of a verb whose module has others than one of its name
    "figures": ["draw"],
    "data": ["check", "resize", "optimize"],
    "cache": ["fill_caches", "list_caches", "check_caches", "remove_caches"],
}


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors say in a few lines what to mend; a part of an option's name is none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints what to mend and exits with status 2; inside of other parsers and for ``--debug``, raises."""
        if not self.exit_on_error or debugging():
            raise ArgumentError(None, message) from ex
        verbs = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        inner = [choices[word] for choices in verbs for word in command() if word in choices]
        known = [action.dest for parser in (self, *inner) for action in parser._actions]
        print(explain_parsing(message, known), file=sys.stderr)
        self.exit(2)

    def add_instantiator(self, instantiator: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Adds one that notes which class has refused its arguments."""
        super().add_instantiator(Construction(instantiator), *args, **kwargs)


class SaidOnce(logging.Filter):
    """Lets through once what a hub's client says of a server that does not answer, and not that it tries again."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        reason, thrown, _ = record.getMessage().partition(" thrown while requesting ")
        new = reason not in self._said and not reason.startswith("Retrying in ")
        if thrown:
            self._said.add(reason)
        return new


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.msg


def check_configs(words: Sequence[str]) -> None:
    """Raises ValueError for a config, of a run or a part of it, that cannot be read safely; skips missing files."""
    for part, path in config_files(words):
        content = load_yaml(path)
        if not part and not isinstance(content, dict):
            raise ValueError(f"{path} holds no settings: expected names with values, as in the configs of examples/")


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``tmkd`` on `args`, by default those of the process.

    What a user can mend in the process's arguments ends with status 2 and a few lines that say so; faults of the code
    keep their traceback, and ``--debug`` shows it for all. Calls with `args` leave exceptions as they are.
    """
    for message in (  # of libraries about themselves or each other
        r"(?s).*Jsonargparse.*",
        r"(?s).*was deprecated in v4\.\d+\.0 and will be removed in v5.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*does not have many workers.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # of libraries that draw bars into log files, too
    logging.getLogger("huggingface_hub.utils._http").addFilter(SaidOnce())
    if os.getcwd() not in sys.path:  # a class_path may name a module of the user's project
        sys.path.append(os.getcwd())  # last: a yaml.py there is not the package yaml
    words = list(sys.argv[1:] if args is None else args)
    if "--debug" in words:
        words.remove("--debug")
        os.environ[DEBUG] = "1"  # for processes that training starts, too
    if not words or words[0] in ("--help", "-h"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    verb = words[0]
    ours = verb in VERBS or (verb == "predict" and _predicts_alone(words))
    if not (ours or verb in LIGHTNING_VERBS or verb.startswith("-")):
        close = did_you_mean(verb, [each.split()[0] for each in LIGHTNING_VERBS | VERBS])
        print(f"tmkd: error: there is no verb {printable(verb)}{close}\n{_usage()}", file=sys.stderr)
        sys.exit(2)
    words = _options_of_new(words) if verb == "new" else words
    words = _one_name_for_checkpoints(words, "--checkpoint" if ours else "--ckpt_path")
    if args is None:
        sys.argv[1:] = words
    COMMAND.set(words)
    try:
        (_run_ours if ours else _run_lightning)(words, None if args is None else words)
    except Exception as error:
        lines = None if args is not None or debugging() else explain(error, ours)
        if lines is None:
            raise  # a fault of the code, which keeps its traceback
        print(lines, file=sys.stderr)
        sys.exit(2)


def _run_lightning(words: list[str], args: list[str] | None) -> None:
    from tmkd_lightning.cli import lightning_cli

    lightning_cli.run(args)


def _run_ours(words: list[str], args: list[str] | None) -> None:
    verb = words[0]
    check_configs(words)
    module = import_module(f"tmkd_lightning.cli.{verb}")
    if verb == "probe" or words[1:2] == ["fill"]:  # which read the config of a run
        (module.run if verb == "probe" else module.fill_caches)(args)
        return
    functions: Any = {name.split("_")[0]: getattr(module, name) for name in _FUNCTIONS.get(verb, [verb])}
    if len(functions) == 1:
        (functions,) = functions.values()
    auto_cli(functions, args=words[1:], as_positional=False, prog=f"tmkd {verb}", parser_class=Parser)


def _predicts_alone(words: Sequence[str]) -> bool:
    """Whether ``tmkd predict`` is ours, with a checkpoint and images, or Lightning's, with a config."""
    options = {word.split("=")[0] for word in words}
    return "--images" in options or ("--checkpoint" in options and not options & {"--config", "-c"})


def _one_name_for_checkpoints(words: Sequence[str], name: str) -> list[str]:
    """The command with `name` for the option that names a checkpoint, which has two."""
    return [
        name + word.removeprefix(option) if (option := word.split("=")[0]) in ("--checkpoint", "--ckpt_path") else word
        for word in words
    ]


def _options_of_new(words: Sequence[str]) -> list[str]:
    """``tmkd new folder --overwrite`` with a name and a value for each option."""
    verb, *rest = words
    named = [verb, "--folder", *rest] if rest and not rest[0].startswith("-") else [verb, *rest]
    bare = [
        word == "--overwrite" and named[at + 1 : at + 2] not in (["true"], ["false"]) for at, word in enumerate(named)
    ]
    return [f"{word}=true" if alone else word for word, alone in zip(named, bare, strict=True)]


def _usage() -> str:
    verbs = "\n".join(f"  {verb:18}{text}" for verb, text in (LIGHTNING_VERBS | VERBS).items())
    options = "Options: tmkd <verb> --help; --debug shows the traceback of an error"
    return f"usage: tmkd <verb> [options]\n\nKnowledge distillation. Verbs:\n{verbs}\n\n{options}"
