"""Keys and passwords, kept out of what a run writes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from tmkd_lightning.configs import parse_yaml

MASK = "***"
"""What stands in place of a key or a password."""

_NAME = re.compile(
    r"(^|_)(api_?keys?|access_?key(_?id)?|secret_?key|private_?key|(api_?)?tokens?|password|passwd|pwd|passphrase"
    r"|secrets?|credentials?|auth|authorization|bearer)$"
)
_OF_NETWORKS = re.compile(
    r"(^|_)(num|n|pad|cls|class|mask|sep|unk|bos|eos|sos|start|end|stop|pool|dist|reg|register|special|image|text|extra"
    r"|prefix|max|per|visual|patch)_tokens?$"
)
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_IN_URL = re.compile(r"(://[^\s/:@?#]*):[^\s/?#]*@")


def masked(config: Any, name: str = "") -> Any:
    """Masks the values of options that are named like keys or passwords, and passwords in URLs.

    Args:
        config: plain values, nested in any way.
        name: of the option that has them; the last part of a dotted one counts.

    Returns:
        The same with `MASK` in their place. Numbers, booleans and None are no secrets and stay.

    Example:
        >>> masked({"logger": {"api_key": "5up3r", "host": "https://me:5up3r@here"}, "tokenizer": "clip"})
        {'logger': {'api_key': '***', 'host': 'https://me:***@here'}, 'tokenizer': 'clip'}
    """
    if isinstance(config, dict):
        hides = _is_secret(name)
        return {key: masked(part, name if hides and key != "class_path" else str(key)) for key, part in config.items()}
    if type(config) in (list, tuple):
        return type(config)(masked(part, name) for part in config)
    if not isinstance(config, str):
        return config
    return MASK if config and _is_secret(name) else _IN_URL.sub(rf"\1:{MASK}@", config)


def without_secrets(config: Any) -> Any:
    """Leaves out of a config what `masked` masks, so that what reads it again asks for it or takes it from elsewhere.

    Example:
        >>> without_secrets({"api_key": "5up3r", "width": 2})
        {'width': 2}
    """
    if isinstance(config, dict):
        return {key: without_secrets(part) for key, part in config.items() if not _is_hidden(part, str(key))}
    if type(config) in (list, tuple):
        return type(config)(without_secrets(part) for part in config)
    return masked(config)


def masked_words(words: Sequence[str]) -> list[str]:
    """Masks keys and passwords in the words of a command, also in YAML that is written out in one.

    Args:
        words: as the shell gives them.

    Returns:
        As many words.

    Example:
        >>> masked_words(["fit", "--logger.api_key", "5up3r", "--logger={api_key: 5up3r, id: 1}"])
        ['fit', '--logger.api_key', '***', "--logger={api_key: '***', id: 1}"]
    """
    result, name = [], ""  # of the option that the next word belongs to
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            result.append(name + equals + _masked_text(value, name))
            name = "" if equals else name
        else:
            result.append(_masked_text(word, name))
            name = ""
    return result


def _masked_text(text: str, name: str) -> str:
    try:
        config = parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        config = None
    if not isinstance(config, (dict, list)) or _is_secret(name):
        return text if text.lower() in ("null", "true", "false") else str(masked(text, name))
    hidden = masked(config)
    if hidden == config:
        return text
    return yaml.safe_dump(hidden, default_flow_style=True, width=math.inf, sort_keys=False).strip()


def _is_secret(name: str) -> bool:
    last = name.rpartition(".")[2].rstrip("+").lstrip("-").replace("-", "_")
    words = _CAPITAL.sub("_", last).lower()
    return _NAME.search(words) is not None and _OF_NETWORKS.search(words) is None


def _is_hidden(value: Any, name: str) -> bool:
    return (isinstance(value, str) or _is_secret(name)) and bool(masked(value, name) != value)
