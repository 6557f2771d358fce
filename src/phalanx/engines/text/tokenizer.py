"""Text to token ids, with a cost that follows what is kept, not what was sent.

Tokenising costs about 0.4 µs a character, so a text far over the limit is looked at through a window that grows until
it holds enough tokens. That gives the very tokens of the whole text: tokenisers normalise character by character and
split into words before they look anything up, so a cut changes the word it falls in and nothing else, and that word is
dropped. A tokeniser that does not split into words sees the whole text as one, and then gets the whole text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from phalanx.contract.text import Token, Truncate
from phalanx.errors import InvalidRequest, TextTooLong, Unavailable

WHOLE_CHARS = 16
"""Characters a token of room up to which a text is tokenised whole, so that its count is exact; English has 5."""

ALONE_CHARS = 8192
"""Characters from which other threads go on while a text is tokenised. The library keeps Python's lock for a single text, and
800,000 emojis, to it one word, took it 0.7 to 1.6 s; for a batch, be it of one, it gives the lock away, which costs 5 µs."""

WINDOW_CHARS = 8
"""Characters a token of room in the first window, and the factor by which the next one grows if that was too few."""


class _Component(msgspec.Struct, frozen=True):
    type: str | None = None
    clean_text: bool = False
    lowercase: bool = False
    strip_accents: bool | None = None
    max_input_chars_per_word: int = 0


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _Definition(msgspec.Struct, frozen=True):
    """What `tokenizer.json` says of its parts."""

    model: _Component
    normalizer: _Component | None = None
    pre_tokenizer: _Component | None = None
    added_tokens: list[_AddedToken] = []


class Tokens(NamedTuple):
    """`ids` with special tokens, at most `max_tokens`; `total` is what the text has, or at least, when it was cut."""

    ids: list[int]
    total: int
    truncated: bool


class TextTokenizer:
    """A `tokenizer.json` with the limit of its model. Safe to use from several threads."""

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        """Read a tokeniser. Raises `Unavailable` when the file is missing, damaged, or leaves no room for a token."""
        try:
            content = path.read_bytes()
            definition = msgspec.json.decode(content, type=_Definition)
            self._tokenizer = _Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            raise Unavailable(f"{path.name} cannot be read as a tokeniser: {error}") from error
        # Whoever saved it may have left padding or a limit of their own in it; MiniLM's says 128.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocabulary_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.max_tokens = max_tokens
        self._prefix, self._suffix = _template(self._tokenizer)
        self._wrapping = frozenset((*self._prefix, *self._suffix, *_padding(self._tokenizer)))
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise Unavailable(f"a limit of {max_tokens} tokens leaves none beside the model's special tokens")
        self._margin = max((len(token.content) for token in definition.added_tokens), default=0)
        self._squeeze = _Squeeze.for_bert(definition)

    @property
    def pad_id(self) -> int:
        """The id that fills up a batch; attention never sees it."""
        return next(iter(_padding(self._tokenizer)), 0)

    def encode(self, text: str, truncate: Truncate) -> Tokens:
        """Tokenise a text, cut to the limit at the end or start.

        The count is exact up to `16 * max_tokens` characters; of a longer text it is that of the part looked at.
        Raises `TextTooLong` when it is over the limit and `truncate` is none, `InvalidRequest` when it cannot be
        encoded as UTF-8 or holds no token at all.
        """
        _require_unicode(text)
        ids = self._look(text, from_start=truncate != "start")
        if not ids:
            raise InvalidRequest("the text has no tokens: it holds only white space or control characters")
        return self._fit(ids, truncate)

    def wrap(self, ids: Sequence[int], truncate: Truncate, *, prompt: str = "") -> Tokens:
        """Take token ids: those of a prompt go before, special ones are dropped and added anew, the rest is cut.

        Raises `TextTooLong`, and `InvalidRequest` for an id outside the vocabulary or when nothing remains.
        """
        for id_ in ids:
            if not 0 <= id_ < self.vocabulary_size:
                raise InvalidRequest(f"token id {id_} is outside the vocabulary: 0 to {self.vocabulary_size - 1}")
        kept = [id_ for id_ in ids if id_ not in self._wrapping]
        if not kept:
            raise InvalidRequest("the token ids hold no token beside special ones")
        return self._fit([*self._encode(prompt).ids, *kept], truncate)

    def split(self, text: str, *, add_special_tokens: bool, skip: int = 0) -> list[Token]:
        """Return every token of a text with its place; nothing is cut.

        The first `skip` characters are a prompt: offsets count from behind it, and its tokens have none. Raises
        `InvalidRequest` when the text cannot be encoded as UTF-8.
        """
        _require_unicode(text)
        encoding = self._encode(text, add_special_tokens)
        rows = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [
            Token(id=id_, text=name, special=True)
            if special
            else Token(id=id_, text=text[start:stop], special=False)
            if start < skip
            else Token(id=id_, text=text[start:stop], special=False, start=start - skip, stop=stop - skip)
            for id_, name, (start, stop), special in rows
        ]

    def _fit(self, ids: list[int], truncate: Truncate) -> Tokens:
        total = len(ids) + self.max_tokens - self._room
        truncated = len(ids) > self._room
        if truncated and truncate == "none":
            raise TextTooLong(f"the text has {total} tokens or more, {self.max_tokens} are allowed", param="truncate")
        if truncated:
            ids = ids[-self._room :] if truncate == "start" else ids[: self._room]
        return Tokens([*self._prefix, *ids, *self._suffix], total, truncated)

    def _look(self, text: str, *, from_start: bool) -> list[int]:
        """Return the ids of a text, or, of one that is too long, more of them than there is room for."""
        if len(text) <= WHOLE_CHARS * self._room:
            return list(self._encode(text).ids)
        window, squeezed = WINDOW_CHARS * self._room, False
        while window < len(text):
            encoding = self._encode(text[:window] if from_start else text[-window:])
            ids = self._untouched(encoding, window, from_start)
            if len(ids) > self._room:
                return ids
            if squeezed or self._squeeze is None:
                window *= WINDOW_CHARS
            else:
                text, squeezed = self._squeeze(text), True
        return list(self._encode(text).ids)

    def _untouched(self, encoding: Encoding, window: int, from_start: bool) -> list[int]:
        """Return the ids that the cut of a window cannot have changed: not in its word, nor where an added token such
        as `[SEP]` could have been cut."""
        words, offsets = encoding.word_ids, encoding.offsets
        if not words:
            return []
        if from_start:
            edge, limit = words[-1], window - self._margin
            return [
                i
                for i, word, (_, stop) in zip(encoding.ids, words, offsets, strict=True)
                if word != edge and stop <= limit
            ]
        edge, limit = words[0], self._margin
        return [
            i
            for i, word, (start, _) in zip(encoding.ids, words, offsets, strict=True)
            if word != edge and start >= limit
        ]

    def _encode(self, text: str, add_special_tokens: bool = False) -> Encoding:
        if len(text) < ALONE_CHARS:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return encoding


def _require_unicode(text: str) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the text is not valid Unicode: a lone surrogate at character {error.start}") from error


class _Squeeze:
    """Shortens what gives BERT's tokeniser no token or one, whatever its length, without changing any token.

    White space counts once. Control characters vanish, and accents where the normaliser strips them. A word over the
    model's limit (100) is unknown however it goes on, so letters beyond the limit are dropped; the scripts are those
    whose letters neither vanish nor stand alone. A long text of anything else costs its length.
    """

    SPACE = re.compile(r"[ \t\n\r\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{2,}")
    CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd"
    ACCENTS = r"\u0300-\u036f"
    LETTERS = r"0-9A-Za-z\u00c0-\u024f\u0400-\u0481\u0620-\u064a\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3"

    def __init__(self, word_limit: int, *, strips_accents: bool) -> None:
        self._vanishing = re.compile(f"[{self.CONTROL}{self.ACCENTS if strips_accents else ''}]+")
        self._long_word = re.compile(f"([{self.LETTERS}]{{{word_limit + 1}}})[{self.LETTERS}]+")

    @classmethod
    def for_bert(cls, definition: _Definition) -> _Squeeze | None:
        """Return the one for a tokeniser of BERT's kind, None for others."""
        normalizer, splitter = definition.normalizer, definition.pre_tokenizer
        if normalizer is None or splitter is None or not normalizer.clean_text:
            return None
        if (normalizer.type, splitter.type, definition.model.type) != (
            "BertNormalizer",
            "BertPreTokenizer",
            "WordPiece",
        ):
            return None
        strips = normalizer.lowercase if normalizer.strip_accents is None else normalizer.strip_accents
        return cls(definition.model.max_input_chars_per_word, strips_accents=strips)

    def __call__(self, text: str) -> str:
        return self._long_word.sub(r"\1", self.SPACE.sub(" ", self._vanishing.sub("", text)))


def _template(tokenizer: _Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after a text, found by tokenising one."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return full[:at], full[at + len(plain) :]
    raise Unavailable("the tokeniser adds special tokens inside a text, which is not supported")


def _padding(tokenizer: _Tokenizer) -> list[int]:
    return [id_ for name in ("[PAD]", "<pad>") if (id_ := tokenizer.token_to_id(name)) is not None]
