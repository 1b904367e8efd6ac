"""Keys and passwords, kept out of what a run writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

MASK = "***"
"""What stands in place of a key or a password."""

_KEY = (  # of these kinds and services; `sort_key` and `teacher_key` are plain words
    "access|account|admin|api|app|application|auth|aws|azure|client|comet|crypto|decryption|deploy|encryption|gcp|github"
    "|gitlab|hf|hmac|licen[cs]e|master|openai|private|root|secret|server|service|session|shared|signing|ssh|storage"
    "|subscription|tls|wandb"
)
_OF_NETWORKS = (  # tokens that are no keys
    "additional|blank|bos|class|cls|dist|end|eos|eot|extra|image|input|latent|mask|max|min|n|new|num|output|pad|padding"
    "|patch|per|pool|prefix|prompt|query|reg|register|sep|sos|special|start|stop|text|total|unk|vision|visual"
)
_NAME = re.compile(
    rf"key|pass|(?!(.*_)?({_OF_NETWORKS})_tokens?$)(.*_)?(({_KEY})_?keys?(_id)?|(api|auth|access)?tokens?|jwt|pat|pwd"
    r"|\w*pass(word|wd|phrase|code)s?|(db|user)_?pass|secrets?|credentials?|auth(orization)?|bearer|cookies?"
    r"|webhooks?(_ur[li])?|connection_?string|shared_access_signature)(_?\d+)?"
)
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_IN_URL = re.compile(  # user:password@, also with / and # in it; token@; https://hooks.slack.com/...; or Bearer ...
    r"(:/{1,2}[^\s/:@?#]{0,99}:)(?:[^\s/?#]{0,999}|(?!\d+[/?#])[^\s@]{0,999})(?=@)|(\bhttps?:/{1,2})[^\s/:@?#]{1,999}(?=@)"
    r"|(\bhttps?://(?:hooks\.[^\s/]{1,99}|\S{1,99}/webhooks?)/)[^\s'\"]+|((?:^[Bb]|\bB)earer +)[^\s'\",]+"
)
_PAIR = re.compile(  # Password=...; 'api_key': '...' Authorization: ... &sig=... --token ...
    r"(?<![/\w.-])([\w.-]+)(['\"]?\s*[=:]\s*| +(?=[^\s-]))"
)
_PLAIN = {"?": r"[^&#\s'\">]*", "{": r"[^,}\n]*", "=": r"[^;\n]*", ":": r".*", "": r"\S*"}  # ends of what has no quotes
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|\[[^]]*\]|\{[^}]*\}|"
_VALUE = {place: re.compile(_QUOTED + rest) for place, rest in _PLAIN.items()}


def masked(config: Any, name: str = "") -> Any:
    """Masks the values of options that are named like keys or passwords, and such parts of URLs and of other text.

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
    return MASK if config and _is_secret(name) else _in_text(config)


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
        ['fit', '--logger.api_key', '***', '--logger={api_key: ***, id: 1}']
    """
    result, name = [], ""  # of the option that the next word belongs to
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        plain = value.lower() in ("", "null", "true", "false")
        result.append(option + equals + (value if plain else masked(value, option or name)))
        name = "" if equals else option
    return result


def _in_text(text: str) -> str:
    text = _IN_URL.sub(lambda found: next(filter(None, found.groups())) + MASK, text)
    result, end = "", 0
    for pair in _PAIR.finditer(text):
        name, sign = pair.groups()
        in_query = text[max(pair.start() - 1, 0) : pair.start()] in ("?", "&", "#")
        hides = _is_secret(name) or (in_query and name.lower().endswith(("sig", "signature")))
        if name == "key" and not in_query and sign[0] not in "'\"":
            hides = False  # "key: value" may be any text
        if sign.isspace() and not name.startswith("--"):
            hides = False  # "the token is" too
        if hides and pair.start() >= end:
            result += text[end : pair.end()] + MASK
            place = "?" if in_query else "{" if "{" in text[: pair.start()] else sign.strip(" '\"")
            end = _VALUE[place].match(text, pair.end()).end()  # type: ignore[union-attr]  # it may be empty
    return result + text[end:]


def _is_secret(name: str) -> bool:
    last = name.rpartition(".")[2].rstrip("+").lstrip("-").replace("-", "_")
    return _NAME.fullmatch(_CAPITAL.sub("_", last).lower()) is not None


def _is_hidden(value: Any, name: str) -> bool:
    return (isinstance(value, str) or _is_secret(name)) and bool(masked(value, name) != value)
