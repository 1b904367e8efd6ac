"""Redaction of keys and passwords in configs, commands and messages."""

import re
from collections.abc import Sequence
from typing import Any

MASK = "***"

_KEY = (  # owners of keys that are secret; `sort_key` and `teacher_key` are not
    "access|account|admin|api|app|application|auth|aws|azure|client|comet|crypto|decryption|deploy|encryption|gcp|github"
    "|gitlab|hf|hmac|licen[cs]e|master|openai|private|root|secret|server|service|session|shared|signing|ssh|storage"
    "|subscription|tls|wandb"
)
_OF_NETWORKS = (  # tokens that are not secret
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
_UNQUOTED = {"?": r"[^&#\s'\">]*", "{": r"[^,}\n]*", "=": r"[^;\n]*", ":": r".*", "": r"\S*"}  # values by what precedes
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|\[[^]]*\]|\{[^}]*\}|"


def redact(config: Any, name: str = "") -> Any:
    """Masks the values of options that are named like secrets, and secrets in URLs and other text.

    `name` is that of the option with this value. Numbers, booleans and None stay.

    Example:
        >>> redact({"logger": {"api_key": "5up3r", "host": "https://me:5up3r@here"}, "tokenizer": "clip"})
        {'logger': {'api_key': '***', 'host': 'https://me:***@here'}, 'tokenizer': 'clip'}
    """
    secret = _is_secret(name)
    if isinstance(config, dict):
        return {key: redact(part, name if secret and key != "class_path" else str(key)) for key, part in config.items()}
    if type(config) in (list, tuple):
        return type(config)(redact(part, name) for part in config)
    if not isinstance(config, str) or not config:
        return config
    return MASK if secret else _redact_text(config)


def without_secrets(config: Any) -> Any:
    """Leaves out what `redact` would mask: a mask in a checkpoint would be taken for the value."""
    if isinstance(config, dict):
        redacted = {key: redact(part, str(key)) for key, part in config.items()}
        hidden = {k for k, v in config.items() if (isinstance(v, str) or _is_secret(str(k))) and redacted[k] != v}
        return {key: without_secrets(part) for key, part in config.items() if key not in hidden}
    if type(config) in (list, tuple):
        return type(config)(without_secrets(part) for part in config)
    return redact(config)


def redact_words(words: Sequence[str]) -> list[str]:
    """Redacts the words of a command, also in YAML that stands in one."""
    result, name = [], ""  # of the option whose value the next word is
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        plain = value.lower() in ("", "null", "true", "false")
        result.append(option + equals + (value if plain else redact(value, option or name)))
        name = "" if equals else option
    return result


def _redact_text(text: str) -> str:
    text = _IN_URL.sub(lambda found: next(filter(None, found.groups())) + MASK, text)
    result, end = "", 0
    for pair in _PAIR.finditer(text):
        name, sign = pair.groups()
        query = text[max(pair.start() - 1, 0) : pair.start()] in ("?", "&", "#")
        secret = _is_secret(name) or (query and name.lower().endswith(("sig", "signature")))
        if name == "key" and not query and sign[0] not in "'\"":
            secret = False  # "key: value" may be any text
        if sign.isspace() and not name.startswith("--"):
            secret = False  # so may "the token is"
        if secret and pair.start() >= end:
            result += text[end : pair.end()] + MASK
            place = "?" if query else "{" if "{" in text[: pair.start()] else sign.strip(" '\"")
            end = re.compile(_QUOTED + _UNQUOTED[place]).match(text, pair.end()).end()  # type: ignore[union-attr]
    return result + text[end:]


def _is_secret(name: str) -> bool:
    last = name.rpartition(".")[2].rstrip("+").lstrip("-").replace("-", "_")
    return _NAME.fullmatch(_CAPITAL.sub("_", last).lower()) is not None
