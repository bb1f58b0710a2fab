"""Findings: which rule speaks when, and how sure it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.specs import METHODS
from ml.study.board import board
from ml.study.findings import digest, findings
from tests.ml.study.fake import ALL, fake_study, read_study

SURE = {"certain", "tied", "open"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, fake_study(folder, seeds=(17, 18, 19), shares=(0.1, 0.3), n_rows=400, reports=False)


def kinds(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The first finding of each kind."""
    return {one["kind"]: one for one in reversed(found["findings"])}


def study(folder: Path, **given: Any) -> dict[str, dict[str, str]]:
    return kinds(fake_study(folder, reports=False, **given))


def test_every_finding_is_a_title_and_a_sentence(whole: tuple[Path, dict[str, Any]]) -> None:
    for one in whole[1]["findings"]:
        assert set(one) == {"kind", "sure", "title", "text"}
        assert one["sure"] in SURE
        assert one["title"].endswith(".") and one["text"].endswith(".")
        for odd in ("None", "nan", "inf ", "{", "  ", ".."):
            assert odd not in one["title"] + one["text"], one


def test_what_to_take_comes_first(whole: tuple[Path, dict[str, Any]]) -> None:
    assert whole[1]["findings"][0]["kind"] == "take"


def test_the_issues_questions_are_all_answered(whole: tuple[Path, dict[str, Any]]) -> None:
    """Soft prompt or prefix, prompt or LoRA, full fine-tuning or not, rows until training beats few-shot, power."""
    found = kinds(whole[1])
    wanted = {"take", "training_pays", "guess", "soft", "prompt_or_lora", "full", "small", "fast", "untrained",
              "not_worth", "rows", "search", "edge"}  # fmt: skip
    assert set(found) >= wanted
    assert "Prefix-tuning" in found["soft"]["text"] and "Prompt tuning" in found["soft"]["text"]
    assert found["prompt_or_lora"]["title"] == "LoRA is above every soft prompt."
    assert "Full fine-tuning" in found["full"]["text"] and "a model of its own" in found["full"]["text"]
    assert found["rows"]["title"].startswith("Training beats Few-shot (nearest) from ")


def test_no_slower_technique_is_called_the_fastest_beside_the_one_to_take(tmp_path: Path) -> None:
    """Few rows: the cheap one is tied with the best, though it keeps less than nine tenths of its value."""
    ability = {"few_shot_nearest": 0.6, "prompt_tuning": 0.45}
    found = study(tmp_path, techniques=tuple(ability), n_rows=20, ability=ability, wobble=0.0)
    assert found["take"]["title"] == "Take Prompt tuning." and "a tie" in found["take"]["text"]
    assert found["fast"]["title"].startswith("The fastest answer: Prompt tuning")


def test_a_winner_that_chance_does_not_explain_is_taken_for_certain(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("plain", "lora"), n_rows=200)
    assert found["take"]["sure"] == found["training_pays"]["sure"] == "certain"
    assert found["take"]["title"] == "Take LoRA."
    assert "more than chance" in found["take"]["text"]
    assert "tie" not in found and "power" not in found


def test_a_tie_says_so_and_takes_the_cheapest(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("lora", "full"), ability={"lora": 0.9, "full": 0.92}, wobble=0, n_rows=40)
    assert found["take"]["sure"] == "tied"
    assert found["take"]["title"] == "Take LoRA."
    assert "it shares the model, where Full fine-tuning needs one of its own" in found["take"]["text"]
    assert found["tie"]["title"] == "Full fine-tuning and LoRA are tied."
    assert found["power"]["sure"] == "open"
    assert "80 % power" in found["power"]["text"] and "there were 40" in found["power"]["text"]


def test_where_the_cheapest_gets_nothing_right_and_is_tied_none_is_recommended(tmp_path: Path) -> None:
    ability = {"plain": 0.0, "lora": 0.02}
    found = fake_study(tmp_path, techniques=("plain", "lora"), ability=ability, wobble=0, n_rows=50, reports=False)
    take = kinds(found)["take"]
    assert (take["title"], take["sure"]) == ("Take none of them yet.", "open")
    assert "cannot be told from none right" in take["text"]
    assert {"term": "Take", "text": "none yet"} in digest(found)


def test_a_small_prompt_that_every_request_reads_again_is_not_cheaper_than_an_adapter(tmp_path: Path) -> None:
    even = {"few_shot": 0.9, "lora": 0.9}
    found = study(tmp_path, techniques=list(even), ability=even, n_rows=40, wobble=0)
    assert found["take"]["title"] == "Take LoRA."
    assert "tokens a request, the next" in found["take"]["text"]


def test_of_two_that_read_alike_the_smaller_file_is_taken(tmp_path: Path) -> None:
    even = {"prompt_tuning": 0.9, "lora": 0.9}
    found = study(tmp_path, techniques=list(even), ability=even, n_rows=40, wobble=0)
    assert found["take"]["title"] == "Take Prompt tuning."


def test_training_that_does_not_pay_is_said_to_be_so(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("few_shot", "lora"), ability={"few_shot": 0.9, "lora": 0.4}, n_rows=200)
    assert found["training_pays"]["title"] == "Training does not pay here."
    assert found["training_pays"]["sure"] == "certain"


def test_a_technique_that_only_guesses_is_named(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("plain", "lora"), ability={"plain": 0.2})
    assert found["guess"]["title"] == "Plain model is not above guessing."
    assert "most common label" in found["guess"]["text"]


def test_a_dearer_prompt_without_gain_is_not_worth_it(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("zero_shot", "chain_of_thought", "few_shot"), n_rows=200)
    assert found["not_worth"]["title"] == "Not worth it: Chain of thought."
    assert "few" not in found["not_worth"]["text"].casefold()


def test_a_prompt_that_is_ahead_by_chance_is_not_called_a_waste(tmp_path: Path) -> None:
    """Few-shot is above zero-shot on these rows, though not for certain: that proves nothing against it."""
    close = {"zero_shot": 0.5, "few_shot": 0.55}
    found = study(tmp_path, techniques=list(close), ability=close, n_rows=40, wobble=0, chance=3)
    assert "not_worth" not in found


def test_seeds_that_differ_by_more_than_rows_explain_are_luck(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("plain", "lora"), ability={"lora": 0.7}, seeds=(1, 2, 3), wobble=0.6,
                  n_rows=300)  # fmt: skip
    assert found["unsteady"]["title"] == "LoRA depends on luck."
    assert "over 3 seeds" in found["unsteady"]["text"]


def test_seeds_that_agree_are_said_to(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("lora",), seeds=(1, 2), wobble=0, n_rows=300)
    assert found["steady"]["title"] == "The seed hardly matters."


def test_one_seed_is_said_to_be_one(tmp_path: Path) -> None:
    assert study(tmp_path, techniques=("lora", "plain"), n_rows=40)["seeds"]["sure"] == "open"


def test_too_few_training_rows_to_beat_the_prompt_are_named(tmp_path: Path) -> None:
    close = {"few_shot_nearest": 0.9, "lora": 0.9}
    found = study(tmp_path, techniques=list(close), ability=close, shares=(0.1,), n_rows=60)
    assert found["rows"]["sure"] == "open"
    assert found["rows"]["title"] == "Not enough rows to beat Few-shot (nearest)."


def test_a_technique_that_still_grows_asks_for_rows(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("lora", "plain"), shares=(0.05,), ability={"lora": 0.8}, n_rows=300)
    assert found["grows"]["title"] == "More training rows would help."


def test_a_search_that_moved_the_rate_says_from_where_to_where(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("p_tuning", "lora"), n_rows=40)
    default = METHODS["p_tuning"].defaults["learning_rate"]
    assert found["search"]["title"] == "The search changed 1 of 2 learning rates."
    assert f"{3 * default:g} instead of {default:g}" in found["search"]["text"]
    assert "highest of 3" in found["edge"]["text"]


def test_defaults_that_held_are_praised_shortly(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("lora", "head"), n_rows=40)
    assert found["search"]["title"] == "The default learning rates held."
    assert "edge" not in found


def test_without_a_search_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert "search" not in study(tmp_path, techniques=("lora",), n_tries=1, n_rows=40)


def test_what_failed_and_what_was_left_out_is_told_with_its_reason(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("plain", "lora", "full"), failed=("lora-s17",), left_out=("full-s17",))
    assert found["failed"]["title"] == "1 cell failed."
    assert "LoRA, seed 17: Training needs 9.1 GB" in found["failed"]["text"]
    assert found["left_out"]["title"] == "1 cell was left out."
    assert "Full fine-tuning" in found["left_out"]["text"]


def test_cells_with_one_reason_are_told_once(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("plain", "lora"), seeds=(1, 2, 3), failed=("lora-s1", "lora-s2", "lora-s3"))
    assert found["failed"]["text"].count("Training needs") == 1
    assert "LoRA, 3 cells" in found["failed"]["text"]


def test_a_study_without_a_finished_cell_says_that_nothing_is_there(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("lora",), waiting=("lora-s17",))
    assert set(found) == {"take"}
    assert found["take"]["title"] == "Nothing is measured yet."


def test_few_rows_are_warned_of(tmp_path: Path) -> None:
    assert study(tmp_path, techniques=("lora", "plain"), n_rows=40)["few_rows"]["title"] == "Only 40 test rows."


def test_free_answers_are_told_in_their_metric(tmp_path: Path) -> None:
    found = study(tmp_path, task="generation", metric="bleu", techniques=("lora", "plain", "p_tuning"), n_rows=60)
    assert "% BLEU" in found["take"]["text"]
    assert "loss" in found["search"]["text"]
    assert "guess" not in found


def test_labels_in_the_plural_have_their_verbs(tmp_path: Path) -> None:
    found = study(tmp_path, techniques=("last_k", "plain"), n_rows=200)
    assert found["take"]["text"].startswith("Last layers answer ")


def test_the_digest_answers_in_a_word(whole: tuple[Path, dict[str, Any]]) -> None:
    terms = {one["term"]: one["text"] for one in whole[1]["digest"]}
    assert list(terms) == ["Take", "Smallest file", "Fastest answer", "Best untrained", "Not worth it"]
    assert terms["Smallest file"] == "Classifier head, 14 kB"
    assert "× the tokens" in terms["Best untrained"]


def test_no_rule_leans_on_a_technique_being_there(tmp_path: Path) -> None:
    fake_study(tmp_path, n_rows=24, reports=False)
    spec, about, cells, rows = read_study(tmp_path)
    for name in ALL:
        others = [cell for cell in cells if cell["technique"] != name]
        found = board(spec, about, others, rows)
        assert found["findings"][0]["kind"] == "take"
        assert name not in (found["best"], found["take"], found["best_untrained"])


def test_findings_need_nothing_but_the_board(whole: tuple[Path, dict[str, Any]]) -> None:
    found = whole[1]
    assert findings(found, {}) == found["findings"]
    assert digest(found) == found["digest"]
