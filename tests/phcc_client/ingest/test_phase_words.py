from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.ingest import phase_vocabulary
from phcc_client.ingest.phase_words import agent_named, folded, read_words
from phcc_model.config import Phase

LETTERED = [
    (word, phase)
    for phase, words in phase_vocabulary.PHASE_WORDS.items()
    for word in words
    if word.isascii() and "*" not in word and word.replace(" ", "").isalpha()
]


@pytest.mark.parametrize("text", ["{}", "t1_vibe_fs_tra_{}_bh", "Ax LAVA {} 3", "({})", "{}2", "VIBE-{}"])
def test_every_word_of_the_vocabulary_says_its_phase(text: str) -> None:
    for word, phase in LETTERED:
        said = read_words(text.format(word))
        assert [p for p, _ in said.phases] == [phase], word
        assert not said.other, word


@settings(max_examples=200, deadline=None)
@given(
    pair=st.sampled_from(LETTERED),
    joint=st.sampled_from([" ", "_", "-", ".", "  ", " - "]),
    spelling=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_capitals_spaces_and_hyphens_do_not_count(
    pair: tuple[str, Phase], joint: str, spelling: object
) -> None:
    assert callable(spelling)
    text = spelling(pair[0].replace(" ", joint))
    assert [p for p, _ in read_words(f"T1 {text} tra").phases] == [pair[1]]


SHORT_WORDS = [word for word, _ in LETTERED if len(word) <= 5 and " " not in word]


@settings(max_examples=200, deadline=None)
@given(
    word=st.sampled_from(SHORT_WORDS),
    before=st.sampled_from(["", "x", "st", "com", "qu"]),
    after=st.sampled_from(["", "q", "xt", "wz"]),
)
def test_a_part_of_a_word_is_no_word(word: str, before: str, after: str) -> None:
    if before or after:
        assert read_words(f"t1 {before}{word}{after}").phases in (
            (),
            read_words(f"{before}{word}{after}").phases,
        )
        assert not any(w == word for _, w in read_words(f"{before}{word}{after}").phases)


NO_WORDS = """start compressed ventral article SPAIR predicted sprevent lavage transverse hepatocellular Martin
Delta oven prePARE"""


@pytest.mark.parametrize("text", NO_WORDS.split())
def test_words_that_hold_another(text: str) -> None:
    assert read_words(text).phases == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20 min", 1200), ("20min", 1200), ("HBP_20_min", 1200), ("2.5 min", 150), ("5'", 300), ("20''", 20),
        ("35 sec", 35), ("70s", 70), ("1h", 3600), ("2 Std", 7200), ("15 minuti", 900), ("20 mn", 1200),
        ("３ｍｉｎ", 180), ("20分", 1200), ("p2_384s", 384), ("1:30 min", None), ("5 mm", None), ("T1", None),
        ("320 slices", None), ("10 minimal", None),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float | None) -> None:
    assert read_words(text).seconds == seconds


def test_seconds_beside_a_breath_hold_are_not_sure() -> None:
    assert not read_words("t1_vibe 20 sec BH").time_sure
    assert read_words("t1_vibe post 20 sec BH").time_sure
    assert read_words("t1_vibe 20 min BH").time_sure


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("t1_vibe_dixon_tra_W", "water"), ("WATER: Ax LAVA-Flex", "water"), ("FAT: Ax LAVA-Flex", "fat"),
        ("InPhase: Ax LAVA-Flex", "in or out of phase"), ("mDIXON_OP", "in or out of phase"),
        ("dixon fat sat", ""), ("LAVA FAT SAT", ""), ("dixon water excitation", ""), ("t1_vibe_W", ""),
    ],
)  # fmt: skip
def test_parts_of_a_dixon_acquisition(text: str, part: str) -> None:
    said = read_words(text)
    assert said.component == part or (part == "in or out of phase" and said.other == "in and out of phase")


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        ("PRIMOVIST", "hepatobiliary"), ("Eovist 10ml", "hepatobiliary"), ("Gadoxetate disodium",
        "hepatobiliary"),
        ("Gd-EOB-DTPA", "hepatobiliary"), ("MultiHance", "late hepatobiliary"), ("Gd-DTPA", "extracellular"),
        ("Gadobutrol", "extracellular"), ("DOTAREM", "extracellular"), ("Gd", ""), ("", ""), ("YES", ""),
    ],
)  # fmt: skip
def test_contrast_agents(agent: str, kind: str) -> None:
    assert agent_named(agent) == kind


def test_no_word_means_two_phases() -> None:
    owners: dict[str, set[str]] = {}
    for table in (phase_vocabulary.PHASE_WORDS, phase_vocabulary.WEAK_PHASE_WORDS):
        for phase, words in table.items():
            for word in words:
                owners.setdefault(word, set()).add(phase)
                assert folded(word) == word or not word.isascii(), word
    assert {word: phases for word, phases in owners.items() if len(phases) > 1} == {}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_and_nothing_of_it_is_kept(text: str) -> None:
    said = read_words(text)
    known = "".join(map(str, vars(phase_vocabulary).values()))
    assert len(said.phases) == len({phase for phase, _ in said.phases})
    assert said.other == "" or said.other in known


def test_a_long_text_takes_no_long_time() -> None:
    start = time.perf_counter()
    for text in (
        "a" * 20000,
        "pre " * 5000,
        "art-" * 5000,
        " " * 20000,
        "1" * 20000,
        "portal " * 3000,
        "_" * 20000,
    ):
        read_words(text)
    assert time.perf_counter() - start < 10.0
