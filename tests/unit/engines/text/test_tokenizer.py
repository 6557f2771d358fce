from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from phalanx.contract.text import Truncate
from phalanx.engines.text.tokenizer import TextTokenizer
from phalanx.errors import InvalidRequest, TextTooLong, Unavailable

LIMIT = 12


@pytest.fixture(scope="module")
def tokenizer(published: Path) -> TextTokenizer:
    return TextTokenizer(published / "tokenizer.json", max_tokens=LIMIT)


@pytest.fixture(scope="module")
def plain(published: Path) -> Any:
    """The library's own, without limit or padding: what every answer must equal."""
    found: Any = Tokenizer.from_file(str(published / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def expected(plain: Any, text: str, truncate: Truncate) -> list[int]:
    ids: list[int] = plain.encode(text, add_special_tokens=False).ids
    room = LIMIT - 2
    return [2, *(ids[-room:] if truncate == "start" else ids[:room]), 3]


def test_a_short_text_is_wrapped_and_counted(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.encode("The cat sees a dog.", "end")
    assert len(tokens.ids) == tokens.total == 8
    assert (tokens.ids[0], tokens.ids[-1]) == (2, 3)
    assert not tokens.truncated


PIECES = st.sampled_from(
    ["cat ", "dog", " ", "\t\n", "日本", "é", "e\u0301", ".", "-!", "unknownsly ", "x" * 130, "[SEP]", "[MASK]", "\u200b", "\x00",
     "\x07", "z", "İ", "ﬁ", "가나다", "\u0301", "\ufffd", "🙂", "Ω", "я" * 105, "a\u200bb", "\u00a0", "\u3000"]
)  # fmt: skip


@pytest.mark.parametrize("truncate", ["start", "end"])
@given(pieces=st.lists(st.tuples(PIECES, st.integers(1, 40)), max_size=40))
def test_a_long_text_gives_the_very_tokens_of_the_whole(
    tokenizer: TextTokenizer, plain: Any, truncate: Truncate, pieces: list[tuple[str, int]]
) -> None:
    text = "".join(piece * times for piece, times in pieces)
    wanted = expected(plain, text, truncate)
    if len(wanted) == 2:
        with pytest.raises(InvalidRequest, match="no tokens"):
            tokenizer.encode(text, truncate)
        return
    found = tokenizer.encode(text, truncate)
    assert found.ids == wanted
    total = len(plain.encode(text, add_special_tokens=False).ids) + 2
    assert found.truncated is (total > LIMIT)
    assert LIMIT < found.total <= total if found.truncated else found.total == total


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize(
    "text",
    [
        " " * 50_000 + "cat" + " " * 50_000,
        "x" * 50_000 + " cat " + "y" * 50_000,
        "\u200b" * 30_000 + "cat \u0301dog" + "\u0301" * 30_000,
        "日本" * 20_000,
        "cat." * 20_000,
        "[SEP]" * 5_000,
        "a\u200bb" * 20_000,
        "я" * 40_000 + "日" + "é" * 40_000,
    ],
)
def test_texts_that_are_mostly_nothing_give_the_tokens_of_the_whole(
    tokenizer: TextTokenizer, plain: Any, truncate: Truncate, text: str
) -> None:
    assert tokenizer.encode(text, truncate).ids == expected(plain, text, truncate)


def test_the_count_is_exact_as_long_as_the_text_is_looked_at_whole(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("cat " * 40, "end").total == 42
    assert LIMIT < tokenizer.encode("cat " * 4_000, "end").total < 4_002


def test_a_text_over_the_limit_is_refused_when_it_may_not_be_cut(tokenizer: TextTokenizer) -> None:
    with pytest.raises(TextTooLong, match="13 tokens or more, 12 are allowed"):
        tokenizer.encode("cat " * 11, "none")
    assert tokenizer.encode("cat " * 10, "none").total == LIMIT


@pytest.mark.parametrize("text", ["", " \t\n", "\x00\x07", "\u200b\u200b", "\u0301"])
def test_a_text_without_a_token_is_refused(tokenizer: TextTokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="no tokens"):
        tokenizer.encode(text, "end")


@pytest.mark.parametrize("text", ["cat \ud800 dog", "\udfff", "cat " * 500 + "\udc80"])
def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: TextTokenizer, text: str) -> None:
    at = next(i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff")
    with pytest.raises(InvalidRequest, match=f"lone surrogate at character {at}"):
        tokenizer.encode(text, "start")


def test_token_ids_lose_their_special_tokens_and_get_them_anew(tokenizer: TextTokenizer) -> None:
    assert tokenizer.wrap([2, 7, 8, 3, 0, 0], "end").ids == [2, 7, 8, 3]
    assert tokenizer.wrap([7, 1, 4, 8], "end").ids == [2, 7, 1, 4, 8, 3]


def test_token_ids_are_cut_like_texts(tokenizer: TextTokenizer) -> None:
    ids = list(range(5, 25))
    assert tokenizer.wrap(ids, "end") == ([2, *ids[:10], 3], 22, True)
    assert tokenizer.wrap(ids, "start") == ([2, *ids[-10:], 3], 22, True)
    with pytest.raises(TextTooLong, match="22 tokens"):
        tokenizer.wrap(ids, "none")


@pytest.mark.parametrize("bad", [-1, 10_000, 2**40])
def test_a_token_id_outside_the_vocabulary_is_named(tokenizer: TextTokenizer, bad: int) -> None:
    with pytest.raises(
        InvalidRequest, match=rf"token id {bad} is outside the vocabulary: 0 to {tokenizer.vocabulary_size - 1}"
    ):
        tokenizer.wrap([7, bad], "end")


@pytest.mark.parametrize("ids", [[], [2, 3], [0]])
def test_token_ids_of_nothing_are_refused(tokenizer: TextTokenizer, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="no token beside special ones"):
        tokenizer.wrap(ids, "end")


def test_a_prompt_goes_before_token_ids(tokenizer: TextTokenizer) -> None:
    prompt = tokenizer.encode("the cat", "end").ids[1:-1]
    assert tokenizer.wrap([8], "end", prompt="the cat").ids == [2, *prompt, 8, 3]


def test_tokens_know_their_place_in_the_text(tokenizer: TextTokenizer) -> None:
    text = "Big  houses, É!"
    tokens = tokenizer.split(text, add_special_tokens=True)
    assert [token.text for token in tokens] == ["[CLS]", "Big", "house", "s", ",", "É", "!", "[SEP]"]
    assert [token.special for token in tokens] == [True, *[False] * 6, True]
    assert tokens[0].start is None
    for token in tokens[1:-1]:
        assert text[token.start : token.stop] == token.text


def test_offsets_count_from_behind_the_prompt(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.split("one cat", add_special_tokens=False, skip=4)
    assert [(token.text, token.start, token.stop) for token in tokens] == [("one", None, None), ("cat", 0, 3)]


def test_a_tokeniser_that_does_not_split_words_sees_the_whole_text(tmp_path: Path) -> None:
    vocabulary: Any = [("<unk>", 0.0), *((char, -2.0) for char in "ab ▁"), ("ab", -1.0), ("ba", -1.5), ("b a", -0.5)]
    whole: Any = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    whole.save(str(tmp_path / "tokenizer.json"))
    text = "abba b" * 200
    found = TextTokenizer(tmp_path / "tokenizer.json", max_tokens=9).encode(text, "end")
    assert found.ids == whole.encode(text).ids[:9]


def test_byte_level_tokenisers_are_cut_at_the_same_place(tmp_path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: i for i, char in enumerate([*alphabet, "Ġa", "ab"])}
    whole: Any = Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("a", "b")]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", max_tokens=9)
    for text in ("ab a  b" * 200, " " * 900 + "ab" * 90, "日本 ab" * 90):
        ids = whole.encode(text).ids
        assert tokenizer.encode(text, "end").ids == ids[:9]
        assert tokenizer.encode(text, "start").ids == ids[-9:]


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"tokenizer\.json cannot be read"):
        TextTokenizer(tmp_path / "tokenizer.json", max_tokens=8)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(Unavailable, match=r"tokenizer\.json cannot be read"):
        TextTokenizer(tmp_path / "tokenizer.json", max_tokens=8)


def test_a_limit_without_room_is_refused(published: Path) -> None:
    with pytest.raises(Unavailable, match="limit of 2 tokens leaves none"):
        TextTokenizer(published / "tokenizer.json", max_tokens=2)


def test_other_threads_go_on_while_a_long_text_is_tokenised(tokenizer: TextTokenizer) -> None:
    """Emojis are one word, which the tokeniser sees whole: no window helps."""
    shares = []
    for attempt in range(4):
        seconds, longest_pause = timed_beside(lambda: tokenizer.encode("🙂" * 300_000, "end"))
        shares.append(longest_pause / seconds)
        if shares[attempt] < 0.6:
            return
    raise AssertionError(f"the other thread stood still for these shares of the time: {shares}")


def timed_beside(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long `work` took in a thread, and the longest time for which this one could not go on, in seconds."""
    done = Event()

    def run() -> None:
        work()
        done.set()

    started = last = time.perf_counter()
    longest = 0.0
    thread = Thread(target=run)
    thread.start()
    while not done.wait(0.001):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    ended = time.perf_counter()
    thread.join()
    return ended - started, max(longest, ended - last)
