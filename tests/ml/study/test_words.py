"""Numbers as people read them."""

from __future__ import annotations

import pytest

from ml.study import words


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (words.percent(0.9667), "96.7 %"),
        (words.percent(None), "–"),
        (words.bounds([0.924, 0.986]), "[92.4, 98.6]"),
        (words.bounds([-0.0251, -0.0001]), "[−2.5, 0.0]"),
        (words.bounds(None), ""),
        (words.points(-0.087), "8.7 points"),
        (words.points(0.01), "1.0 point"),
        (words.size(46_400), "46 kB"),
        (words.size(9_800_000), "9.8 MB"),
        (words.size(269_000_000), "269 MB"),
        (words.size(3_100_000_000), "3.1 GB"),
        (words.size(0), "0 B"),
        (words.size(None), "–"),
        (words.duration(680), "11 min"),
        (words.duration(350), "5 min 50 s"),
        (words.duration(50), "50 s"),
        (words.duration(4.25), "4.2 s"),
        (words.duration(7800), "2 h 10 min"),
        (words.milliseconds(37.8), "38 ms"),
        (words.milliseconds(2980), "3.0 s"),
        (words.milliseconds(4.21), "4.2 ms"),
        (words.count(11_520), "11,520"),
        (words.count(2_442_240), "2.4 M"),
        (words.count(134_515_008), "135 M"),
        (words.count(0), "0"),
        (words.about(1904), "1,900"),
        (words.about(87), "87"),
        (words.rate(3e-2), "0.03"),
        (words.rate(3.3333e-5), "3.3e-05"),
        (words.ratio(292, 34), "8.6 ×"),
        (words.ratio(9_800_000, 46_400), "211 ×"),
        (words.name("Few-shot, nearest"), "Few-shot (nearest)"),
        (words.name("LoRA"), "LoRA"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed(["a"]), "a"),
        (words.listed([]), ""),
        (words.several(1, "cell"), "1 cell"),
        (words.several(1900, "row"), "1,900 rows"),
        (words.midsentence("Token F1"), "token F1"),
        (words.midsentence("ROUGE-L"), "ROUGE-L"),
    ],
)
def test_a_number_reads_as_in_the_product(found: str, expected: str) -> None:
    assert found == expected
