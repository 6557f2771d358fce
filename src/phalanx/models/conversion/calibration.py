"""Texts for quantising: those that set the scales, and others that tell whether it went well.

Scales are fixed once, so whatever a caller may send should have been seen: prose, scripts, emoji, code, addresses,
numbers, and the odd input that drives activations furthest: one word over and over, signs only, random tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SENTENCES = (
    "The ferry leaves at seven and reaches the far shore before noon.",
    "She kept the receipts in a shoebox, sorted by year and then by colour.",
    "Interest rates rose by a quarter of a point, less than markets had feared.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "He didn't say where he was going; nobody asked, either.",
    "Patients given the vaccine were half as likely to need hospital care.",
    "To make the sauce, melt butter over a low flame and stir in flour.",
    "How do I reset my password if I no longer have that phone number?",
    "The striker scored twice in injury time to send the visitors home with nothing.",
    "I love this kettle! It boils fast, looks great, but the lid is stiff.",
    "Section 4.2: the tenant shall give notice in writing no later than thirty days before the end of the term.",
    "Quantum error correction spreads one logical qubit over many physical ones.",
    "ERROR 2041: connection reset by peer while reading response header from upstream",
    "Buy milk, eggs, bread; call mum; fix the bike.",
    "It was so quiet that you could hear snow sliding off the roof.",
    "WARNING!!! DO NOT OPEN THE DOOR WHILE THE DRUM IS TURNING!!!",
)

SCRIPTS = (
    "Das Schiff fährt über den großen Fluss, bevor es dunkel wird.",
    "L'élève a oublié son cahier à la bibliothèque près du château.",
    "El niño pidió una taza de café y dos piñas más.",
    "Wczoraj padał śnieg, dziś świeci słońce nad łąką.",
    "Завтра мы поедем на дачу и будем собирать яблоки.",
    "Η θάλασσα ήταν ήσυχη και ο ουρανός γαλανός.",
    "השמש זורחת מעל ההרים בכל בוקר.",
    "تشرق الشمس كل صباح فوق الجبال البعيدة.",
    "आज मौसम बहुत अच्छा है और हवा चल रही है।",
    "วันนี้อากาศดีมากและลมพัดเย็นสบาย",
    "今天的天气很好,我们去公园散步吧。",
    "明日の朝、駅の前で友だちに会います。",
    "오늘은 날씨가 좋아서 산책을 했습니다.",
    "Hôm nay trời đẹp nên chúng tôi đi dạo.",
    "დღეს კარგი ამინდია და მზე ანათებს.",
    "Bugün hava çok güzel, İstanbul'da yürüyüş yaptık.",
)

SIGNS = (
    "🙂🙃😀😅🎉🔥💯👍🏽👩‍👩‍👧‍👦🇯🇵",
    "🍕 for dinner? 🤔🤷 ok 👌",
    "?!?!?! ... --- ;;; ::: ((( )))",
    "$ € £ ¥ % ‰ § ¶ © ® ™ ° ± × ÷ ≤ ≥ ≠ ∞ ∑ ∫ √ ∂",
    "∀x∈ℝ: x² ≥ 0 ⇒ ¬∃y (y² < 0)",
    "a = b / c; // 100 % sure \\o/ [x] {y} <z> |w| ~v~ `u`",
    "──────── ▓▓▓▓ ░░░░ ████ ✓ ✗ ★ ☆ → ← ↑ ↓",
    "\u200bzero\u200bwidth\u200b and a\u0301c\u0301c\u0301ents",
    ".",
    "#",
    "'",
    "x",
    "I",
    "7",
)

STRUCTURED = (
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "class Node:\n    def __init__(self, value, next=None):\n        self.value = value\n        self.next = next",
    "SELECT name, COUNT(*) FROM orders WHERE total > 99.5 GROUP BY name ORDER BY 2 DESC LIMIT 10;",
    '{"id": 4711, "tags": ["a", "b"], "active": true, "score": -1.5e-3, "parent": null}',
    "<div class='row'><a href='/index.html?page=3&sort=asc#top'>next</a></div>",
    "https://www.example.com/a/very/long/path/with/segments?and=query&more=values#fragment",
    "user.name+tag@mail.example.org, +49 (0)30 901820-0, 2026-02-28T23:59:59Z, 192.168.0.254, ::1",
    "c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2",
    "U2FsdGVkX1+0vJ8y2Yk4k8m1Qm9J7u2Zb5V3o0x1c2E=",
    "| name | qty | price |\n|------|-----|-------|\n| nut  | 200 | 0.02  |\n| bolt | 150 | 0.05  |",
    "\\frac{d}{dx} \\left( \\int_{0}^{x} f(u)\\,du \\right) = f(x)",
    "ACGTTGCAACGTGGTCA-TTAGGCATCGA",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "3.141592653589793 2.718281828459045 1.618033988749895",
)

REPEATED = (
    "data",
    "no",
    "9876543210",
    "the",
    "ha",
    "!",
    "a b c",
    "é",
    "нет",
    "字",
    "🙂",
    "0",
    "-",
    "lorem ipsum",
    "x1",
    "(",
    "[UNK]",
)
"""Said again and again: texts of one token or few are where scales are needed most."""

CHECKS = (
    "Hello world",
    "What is the capital of Mongolia?",
    "The museum reopened after nine years of repairs, with a new wing for ceramics.",
    "unbelievable unbelievable unbelievable unbelievable unbelievable unbelievable unbelievable unbelievable",
    "5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555 5555",
    "q",
    "…",
    "?",
    "🐙",
    "🚀🚀🚀 to the moon 🌕",
    "Die Straße führt bis zur Küste.",
    "Где находится ближайшая аптека?",
    "من أين يأتي هذا الصوت؟",
    "東京は夜の七時です。",
    "我想订一张去上海的火车票。",
    "नमस्ते, आप कैसे हैं?",
    "우리 집 고양이는 창가에서 잔다.",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
    "GET /v1/items?limit=50&cursor=abc HTTP/1.1",
    "m = 9.10938e-31 kg; e = -1.602e-19 C",
    "!!!!!!!! ######## @@@@@@@@",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
    "NOT a drill: evacuate NOW via stairs A, B & C.",
    "one two one two one two one two one two one two one two one two one two one two one two one two " * 5,
)
"""What tells whether a quantised model is any good; none of them sets a scale."""


def calibration_texts() -> list[str]:
    """Return the texts that set the scales: about 200, from one character to far over any limit; the same every time."""
    plain: Sequence[str] = (*SENTENCES, *SCRIPTS, *SIGNS, *STRUCTURED)
    rng = np.random.default_rng(20_26)
    joined = [
        " ".join(rng.permutation(plain)[:count].tolist()) for count in (2, 3, 4, 6, 8, 12, 16, 24) for _ in range(4)
    ]
    repeated = [" ".join([part] * count) for part in REPEATED for count in (2, 5, 20, 80, 300)]
    return [*plain, *joined, *repeated, *(text.upper() for text in SENTENCES[:4])]


def calibration_ids(allowed: Sequence[int], length: int) -> list[list[int]]:
    """Return every allowed token id once, shuffled, in texts of `length`: no word should be met unprepared."""
    order = np.random.default_rng(8).permutation(np.asarray(allowed))
    return [order[start : start + length].tolist() for start in range(0, len(order), length)]
