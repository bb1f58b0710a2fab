"""The next token: reproducible, and distributed as asked."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ml.engine.sampler import draw, likeliest, penalize, penalize_counts, permit, sample, uniform
from ml.engine.types import Request, Row, Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])


def row_of(**sampling: object) -> Row:
    return Row(request=Request(id="r", team_id=1, prompt_ids=(1, 2), sampling=Sampling(**sampling)))


def draws(sampling: Sampling, n: int = 4000) -> Counter[int]:
    return Counter(draw(LOGITS, sampling, uniform(1, i)) for i in range(n))


def test_random_numbers_follow_from_seed_and_position_alone():
    assert uniform(3, 7) == uniform(3, 7) != uniform(3, 8)
    numbers = [uniform(0, i) for i in range(4000)]
    assert 0.48 < sum(numbers) / 4000 < 0.52 and min(numbers) >= 0 and max(numbers) < 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_softmax_at_a_temperature(temperature):
    wanted = torch.softmax(LOGITS / temperature, -1)
    found = draws(Sampling(temperature=temperature))
    for token, probability in enumerate(wanted.tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_k_draws_from_the_k_likeliest_only():
    assert set(draws(Sampling(temperature=1.5, top_k=2))) == {0, 1}


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    probabilities = torch.softmax(LOGITS, -1)
    assert set(draws(Sampling(temperature=1.0, top_p=float(probabilities[:2].sum()) - 0.01))) == {0, 1}
    assert set(draws(Sampling(temperature=1.0, top_p=0.01))) == {0}


def test_the_penalty_is_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    seen = [0, 3, 3]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), LOGITS[None].clone())[0]
    torch.testing.assert_close(penalize(LOGITS, seen, 1.3), expected)


def test_the_warped_distribution_is_that_of_transformers():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = LOGITS[None].clone()
    for warper in (TemperatureLogitsWarper(1.4), TopKLogitsWarper(4), TopPLogitsWarper(0.9)):
        scores = warper(None, scores)
    wanted = torch.softmax(scores[0], -1)
    found = draws(Sampling(temperature=1.4, top_k=4, top_p=0.9))
    for token, probability in enumerate(wanted.tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_rows_of_different_settings_share_a_batch():
    rows = [row_of(), row_of(temperature=1.0, seed=1), row_of(repetition_penalty=100.0), row_of(n_logprobs=2)]
    logits = torch.stack([torch.tensor([0.0, 3.0, 2.9, 1.0])] * 4)
    choices = sample(rows, logits)
    assert choices[0].id == 1 and choices[2].id == 3 and choices[0].logprobs is None
    logprobs = choices[3].logprobs
    assert logprobs is not None and [i for i, _ in logprobs] == [1, 1, 2]
    assert logprobs[0][1] == pytest.approx(float(torch.log_softmax(logits[3], -1)[1]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_whose_logits_are_not_finite_gets_no_token_and_the_others_do(bad):
    logits = torch.zeros(2, 5)
    logits[0, 3] = bad
    choices = sample([row_of(), row_of()], logits)
    assert choices[0].id is None and choices[1].id is not None


def test_frequency_and_presence_count_the_answer_alone():
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence."""
    found = penalize_counts(LOGITS, [0, 0, 2], frequency=0.5, presence=0.25)
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0, -0.75, -1.0, -9.0]))
    row = row_of(frequency_penalty=2.0)
    assert [choice.id for choice in sample([row], LOGITS[None])] == [0]
    row.answer = [0]
    assert [choice.id for choice in sample([row], LOGITS[None])] == [1]


def test_what_is_not_permitted_has_no_chance():
    allowed = permit(LOGITS, bytes([0, 1, 0]))
    assert allowed.tolist() == [-torch.inf, 1.0, -torch.inf, -torch.inf, -torch.inf]
    drawn = {draw(allowed, Sampling(temperature=2.0), 1 - 2.0**-53) for _ in range(3)}
    assert drawn == {1}


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("sampling", [{"top_p": 0.3}, {"top_p": 0.95}, {}, {"top_k": 5}, {"top_k": 40, "top_p": 0.9}])
def test_looking_at_the_likeliest_first_draws_what_sorting_all_would(spread, sampling, monkeypatch):
    torch.manual_seed(0)
    logits = spread * torch.randn(200) + torch.arange(200) * 1e-4  # no ties
    logits[7] = -torch.inf
    settings = Sampling(temperature=0.8, **sampling)
    randoms = [uniform(5, i) for i in range(300)] + [0.0, 1 - 2.0**-53]
    found = {}
    for n in (8, 200):
        monkeypatch.setattr("ml.engine.sampler.N_LIKELIEST", n)
        found[n] = [draw(logits, settings, random) for random in randoms]
    assert found[8] == found[200] and 7 not in found[8]


@pytest.mark.parametrize("n_vocabulary", [5, 257, 384, 1024])
def test_the_likeliest_is_found_wherever_it_is(n_vocabulary):
    torch.manual_seed(1)
    logits = torch.randn(7, n_vocabulary)
    logits[0, -1], logits[1, 0] = 9, 9
    logits[2, [1, 3]] = 9
    values, ids = likeliest(logits)
    assert torch.equal(values, logits.amax(-1)) and ids.tolist() == logits.argmax(-1).tolist()
    assert ids[2] == 1
    logits[3, 2] = torch.nan
    assert likeliest(logits)[0].isnan().tolist() == [False] * 3 + [True] + [False] * 3
