"""Secrets out of what is recorded: by the name that a value has, and by what a text looks like.

What is looked for in texts is expensive, and rare. Each pattern has a character and a literal without which it cannot
match; finding those is a hundred times cheaper than the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from llmgine.errors import ConfigurationError

__all__ = ["REDACTED", "Redactor", "redact", "redactor_of"]

REDACTED: Final = "<redacted>"

_SHORTEST = 8
"""Characters of the shortest text that a pattern matches."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET = re.compile(
    r"passw(or)?d|passphrase|apikey"
    r"|(^|_)(pwd|secrets?|api_keys?|(proxy_)?authorization|(set_)?cookies?|credentials?|jwt"
    r"|(access|private|signing|encryption|ssh)_keys?)(_|$)"
    r"|(^|_|[a-z])token(_value)?$"
)
_LONGEST_NAME = 64
"""Characters of what is taken for a name."""

_NAME = re.compile(r"""(?<![\w-])([A-Za-z_][\w-]{1,63}+)\\*["']?\s*[=:]\s*""")
"""A name in a text, and what is between it and its value."""
_VALUE = re.compile(
    r"""(?P<quote>\\*")(?:[^"\\]++|\\++(?!["\\])|(?!(?P=quote))\\*+")*|(?P<single>')[^']*"""
    r"""|(?:(?:Bearer|Basic|Digest|Token)\s+)?[^\s"'\\,&;{}()\[\]<>]+"""
)
_HARMLESS = re.compile(rf"(?:{REDACTED}|Bearer|Basic|null|[Nn]one|[Tt]rue|[Ff]alse|str|bytes|string)?")
"""Bare values that give nothing away: nothing, a scheme whose token is gone already, or the type of a parameter."""
_HINTS = ("pass", "pwd", "secret", "token", "key", "auth", "cookie", "cred", "jwt")
"""Each name that `_SECRET` matches contains one of them."""


class _Pattern(NamedTuple):
    name: str
    character: str
    literal: str
    """In every text that matches, and so is `character`."""
    regex: re.Pattern[str]
    replacement: str


def _pattern(name: str, character: str, literal: str, regex: str, replacement: str = REDACTED) -> _Pattern:
    return _Pattern(name, character, literal, re.compile(regex, re.DOTALL), replacement)


_PATTERNS = (
    _pattern("openai", "-", "sk-", r"(?<![A-Za-z0-9])sk-(?:(?=[A-Za-z_-]*[0-9])[\w-]{8,}|[\w-]{16,})"),
    _pattern("slack", "-", "xox", r"xox[a-z]-[A-Za-z0-9-]{10,}"),
    _pattern("gitlab", "-", "glpat-", r"glpat-[\w-]{20,}"),
    _pattern(
        "private_key",
        "-",
        "PRIVATE KEY",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY( BLOCK)?-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY( BLOCK)?-----|\Z)",
    ),
    _pattern("github", "_", "gh", r"gh[opsur]_[A-Za-z0-9]{20,}"),
    _pattern("github", "_", "github_pat_", r"github_pat_\w{20,}"),
    _pattern("huggingface", "_", "hf_", r"hf_[A-Za-z0-9]{30,}"),
    _pattern("stripe", "_", "k_", r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{8,}"),
    _pattern("aws", "A", "AKIA", r"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])"),
    _pattern("aws", "A", "ASIA", r"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Z0-9])"),
    _pattern("google", "A", "AIza", r"AIza[\w-]{30,}"),
    _pattern("jwt", "J", "eyJ", r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"),
    _pattern("url", "@", "://", r"(://[^\s/:@\"'<>]{0,100}+:)[^\s/\"'<>]+@", rf"\g<1>{REDACTED}@"),
    _pattern(
        "bearer",
        "earer ",
        "earer ",
        r"([Bb]earer\s+)(?:(?=[^\s0-9]*[0-9])[\w.~+/-]{6,}|[\w.~+/-]{24,})=*",
        rf"\g<1>{REDACTED}",
    ),
    _pattern("cookie", ":", "ookie", r"(?<!\w)((?:[Ss]et-)?[Cc]ookie: ?+)(?!<)[^\r\n\"']+", rf"\g<1>{REDACTED}"),
)

_Gate: TypeAlias = tuple[str, tuple[_Pattern, ...]]


class Redactor:
    """Replaces what looks secret by "<redacted>", in values such as JSON has: dicts, lists, texts, numbers.

    Secret are values with a name such as `password`, `apiKey`, `X-Auth-Token`, `set-cookie` or `db_credentials`, also
    where a text says `password=…` or `"password": …`; and in texts, under whatever name, what has the form of a key or
    token of OpenAI, Anthropic, AWS, GitHub, GitLab, Google, Hugging Face, Slack or Stripe, bearer and JSON Web Tokens,
    private keys in PEM, and the password in a URL. Names of counts are not secret: `max_tokens`, `token_count`; nor are
    numbers whose name ends in `token`, such as `time_to_first_token`. It is a net with holes, not a wall.
    """

    def __init__(
        self, *, keys: Iterable[str] = (), patterns: Iterable[str | re.Pattern[str]] = (), off: Iterable[str] = ()
    ) -> None:
        """Look for what is described above, and for more or less.

        Args:
            keys: more names of secret values; capitals, `-` and `_` make no difference.
            patterns: more regular expressions; what matches is replaced.
            off: names of values that are not secret after all, and built-in patterns: "openai", "slack", "gitlab",
                "private_key", "github", "huggingface", "stripe", "aws", "google", "jwt", "url", "bearer", "cookie".

        Raises:
            ConfigurationError: a pattern is no regular expression.
        """
        off = set(off)
        self._keys = frozenset(map(_normal, keys))
        self._public = frozenset(map(_normal, off))
        self._hints = *_HINTS, *(key.partition("_")[0] for key in self._keys)
        gates: dict[str, list[_Pattern]] = {}
        for pattern in _PATTERNS:
            if pattern.name not in off:
                gates.setdefault(pattern.character, []).append(pattern)
        self._gates: tuple[_Gate, ...] = tuple((character, tuple(group)) for character, group in gates.items())
        self._own = tuple(map(_compiled, patterns))
        self.shortest = 0 if self._own else _SHORTEST
        """Characters of the shortest text that may change."""
        self._look_up = lru_cache(maxsize=4096)(self._judge)
        self.finds_names = lru_cache(maxsize=1024)(self._finds_names)

    def __call__(self, data: Any) -> Any:
        """Return a copy of `data` with "<redacted>" in the place of secrets; `data` itself if there are none."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, dict):
            return self._dict(data)
        if isinstance(data, list | tuple):
            return self._list(data)
        return data

    def text(self, text: str) -> str:
        """Return a text with "<redacted>" in the place of secrets; the same text if there are none."""
        if len(text) < self.shortest or (text.isalnum() and "A" not in text and not self._own):
            return text  # such as most ids: only the keys of AWS and Google have no punctuation, and they have an A
        before = text
        for character, group in self._gates:
            if character in text:
                for pattern in group:
                    if pattern.literal in text:
                        text = pattern.regex.sub(pattern.replacement, text)
        if "=" in text or ":" in text:
            lower = text.lower()
            if any(hint in lower for hint in self._hints):
                text = self._assignments(text)
        for regex in self._own:
            text = regex.sub(REDACTED, text)
        return before if text == before else text

    def secret(self, key: str, value: object) -> bool:
        """Tell whether what is called `key` has to go whole, whatever it looks like."""
        secret, counted, _ = self._about(key)
        if not secret or value is None or isinstance(value, bool) or (counted and isinstance(value, int | float)):
            return False
        return value not in ("", REDACTED, {}, [])

    def finds(self, data: dict[str, Any] | list[Any], but: Container[str] = ()) -> bool:
        """Tell whether anything in an object or array has to go, without looking into what it holds in turn.

        Args:
            data: is not changed.
            but: names of what need not be looked at.
        """
        if isinstance(data, list):
            return any(isinstance(value, str) and self.text(value) is not value for value in list.__iter__(data))
        for key, value in dict.items(data):
            if key not in but:
                secret, _, clean = self._about(key)
                if (secret and self.secret(key, value)) or clean is not None:
                    return True
                if isinstance(value, str) and len(value) >= self.shortest and self.text(value) is not value:
                    return True
        return False

    def _finds_names(self, names: frozenset[str]) -> bool:
        """Tell whether a value of one of these names has to go, or the name."""
        return any(secret or clean is not None for secret, _, clean in map(self._about, names))

    def _about(self, key: str) -> tuple[bool, bool, str | None]:
        """Return whether values of this name are secret, whether that leaves numbers out, and a cleaner name."""
        return self._look_up(key) if len(key) <= _LONGEST_NAME else self._judge(key)

    def _judge(self, key: str) -> tuple[bool, bool, str | None]:
        name = _normal(key)
        secret = name not in self._public and (name in self._keys or _SECRET.search(name) is not None)
        clean = self.text(key)
        return secret, secret and name.endswith("token"), None if clean is key else clean

    def _dict(self, data: dict[Any, Any]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        changed = False
        for key, value in data.items():
            name = key
            if isinstance(key, str):
                name = self._about(key)[2] or key
                clean = REDACTED if self.secret(key, value) else self(value)
            else:
                clean = self(value)
            if clean is not value or name is not key:
                changed = True
            while name in result:  # two secrets as names
                name = f"{name}#{len(result)}"
            result[name] = clean
        return result if changed else data

    def _list(self, data: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
        clean = [self(value) for value in data]
        return data if all(new is old for new, old in zip(clean, data, strict=True)) else clean

    def _assignments(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for name in _NAME.finditer(text):
            secret, counted, _ = self._about(name[1])
            value = _VALUE.match(text, name.end()) if secret and name.start() >= end else None
            if value is None:
                continue
            quote = value["quote"] or value["single"] or ""
            bare = value[0][len(quote) :]
            if not (_HARMLESS.fullmatch(bare) or (counted and _is_number(bare))):
                parts += text[end : value.start()], quote, REDACTED
                end = value.end()
        return "".join((*parts, text[end:])) if parts else text


def _normal(key: str) -> str:
    """Return a name as lower-case words with `_` between: "X-Api-Key", "apiKey" and "API_KEY" end in "api_key"."""
    return "_".join(_WORD.findall(key)).lower()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is not a regular expression: {error}."
        raise ConfigurationError(msg) from error


redact: Final = Redactor()


def redactor_of(option: bool | Redactor) -> Redactor | None:  # noqa: FBT001  # the one argument there is
    """Return what a sink's option stands for: the redactor itself, the usual one, or none."""
    if isinstance(option, Redactor):
        return option
    return redact if option else None
