"""Token ids of odd texts against transformers' tokenisers: the one that sentence-transformers uses, and the original.

The bar is for the first. The original, written in Python, lower-cases a final sigma as such and knows the Unicode version
of its Python; the other is the library that we use, set up by transformers from the same files.
"""

from __future__ import annotations

import sys
import unicodedata

from measuring.corpus import Corpus, reference
from measuring.model import peer_folder
from measuring.own import open_own
from measuring.peers import PeersUnavailable, open_peers
from measuring.report import Row, main, not_measured, say

CLAIM = "odd texts whose token ids differ from transformers'"
PYTHON_CLAIM = "the same, from the tokeniser in Python"

ODD = (
    " ", "\t\n\r", "\x00", "a\x00b", "\x01\x02\x7f", "soft\u00adhyphen", "zero\u200bwidth\u200djoiner", "\ufeffbom",
    "nbsp\u00a0and\u2003em space", "e\u0301 and \u00e9", "Å Å Å", "ﬁ ligature", "ＦＵＬＬ ｗｉｄｔｈ １２３", "İstanbul ıI", "straße STRASSE ẞ",
    "Ελληνικά ΣΊΣΥΦΟΣ", "Привет, мир ё й", "שָׁלוֹם עולם", "السَّلَامُ عَلَيْكُم", "नमस्ते दुनिया", "ภาษาไทย", "한국어 텍스트 각", "日本語テキスト、漢字とかな", "汉字𠀀𪚥",
    "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇩🇪", "👍🏽 1️⃣", "a" * 99, "a" * 100, "a" * 101, "é" * 60, "word" * 64, "x" * 5000,
    "[CLS] [SEP] [MASK] [PAD] [UNK]", "[cls]", "##ing ##", "don't can't we'll", "U.S.A. e.g. i.e.", "$12.50 50% #1 @me",
    "http://example.org/a_b?c=d&e=f#g", "C:\\temp\\file.txt", "a+b=c≠d≤e∑f∫g", "x² y³ ½ ¼ ™ © ®", "“quotes” ‘single’ «guillemets»",
    "— – - ‐ ‑ −", "…", "¿Qué? ¡Sí!", "\u202ertl override\u202c", "\U000e0041 tag", "\u0378 unassigned", "\ue000 private",
    "line\u2028separator\u2029paragraph", "a\u0300\u0301\u0302\u0303", "Ǆ ǅ ǆ", "ﷺ", "\u1e9e\u0130", "1234567890" * 20, "_" * 40, "...!!!???",
)  # fmt: skip
"""Each is odd in its own way: control and format characters, normal forms, case, scripts, long words, signs."""


def measure() -> list[Row]:
    """Return the row."""
    texts = [*ODD, *reference().texts, *_every_block(), *Corpus(11).mixed(64)]
    try:
        with open_peers(1) as peers, open_own("f32") as (own, _):
            theirs = peers.ask("tokenize", folder=str(peer_folder()), texts=texts)
            ours = own.ask("token_ids", texts=texts)["ids"]
    except PeersUnavailable as error:
        return not_measured([(CLAIM, "texts", "lower", 0)], str(error))
    used, python = (_different(ours, theirs[which], texts) for which in ("used", "python"))
    for text in used:
        say(f"other ids: {text[:60]!r}")
    return [
        Row(claim=CLAIM, measured=len(used), unit="texts", better="lower", bar=0, note=_note(used, texts)),
        Row(claim=PYTHON_CLAIM, measured=len(python), unit="texts", better="lower", note=_note(python, texts)),
    ]


def _different(ours: list[list[int]], theirs: list[list[int]], texts: list[str]) -> list[str]:
    return [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]


def _note(different: list[str], texts: list[str]) -> str:
    return f"of {len(texts)}" + (f"; first: {different[0][:16]!r}" if different else "")


def _every_block(size: int = 256, step: int = 16) -> list[str]:
    """Return texts of assigned characters, one text for each 256 code points of the first two planes."""
    texts = []
    for start in range(0, 0x20000, size):
        found = [chr(code) for code in range(start, start + size, step) if not 0xD800 <= code < 0xE000]
        known = [char for char in found if unicodedata.category(char) not in ("Cn", "Cs")]
        if known:
            texts.append("x".join(known))
    return texts


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
