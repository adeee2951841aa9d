from __future__ import annotations

import numpy as np
import pytest

from xling.data import load_data
from xling.models.loading import load_base, load_tokenizer
from xling.prompts import PromptFormat, render_prompts
from xling.scoring import (
    InProcessEngine,
    average_over_orders,
    option_orders,
    position_prior,
    recall_std,
    reorder,
)

CYCLIC = option_orders("cyclic")


def test_orders_begin_with_the_identity_and_are_balanced():
    assert CYCLIC == ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2))
    every = option_orders("all")
    assert every[0] == (0, 1, 2, 3) and len(set(every)) == 24
    for orders, times in ((CYCLIC, 1), (every, 6)):
        for position in range(4):
            shown = [order[position] for order in orders]
            assert [shown.count(option) for option in range(4)] == [times] * 4
    with pytest.raises(ValueError, match="'some' are unknown; use cyclic or all"):
        option_orders("some")


def test_reordered_items_show_the_chosen_option_at_each_position():
    item = load_data("mini", languages=["fra_Latn"]).items["fra_Latn"][0]
    shown = reorder(item, (2, 0, 3, 1))
    assert shown.answers == (item.mc_answer3, item.mc_answer1, item.mc_answer4, item.mc_answer2)
    assert (shown.flores_passage, shown.question) == (item.flores_passage, item.question)
    assert reorder(item, CYCLIC[0]).answers == item.answers
    with pytest.raises(ValueError, match="must hold each of 0, 1, 2 and 3 once"):
        reorder(item, (0, 0, 1, 2))


@pytest.mark.parametrize("kind", ["cyclic", "all"])
def test_averages_follow_the_original_option_by_brute_force(kind):
    orders = option_orders(kind)
    logprobs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), size=(20, len(orders))))
    logprobs = logprobs[..., :4]
    averaged = average_over_orders(logprobs, orders)
    for item in range(20):
        mean = np.zeros(4)
        chosen = []
        for index, order in enumerate(orders):
            for position, option in enumerate(order):
                mean[option] += np.exp(logprobs[item, index, position]) / len(orders)
            chosen.append(order[int(logprobs[item, index].argmax())] + 1)
        assert np.exp(averaged.logprobs[item]) == pytest.approx(mean)
        assert averaged.answer_mass[item] == pytest.approx(mean.sum())
        assert averaged.prediction[item] == mean.argmax() + 1
        assert averaged.by_order[item].tolist() == chosen
        assert averaged.agreement[item] == chosen.count(mean.argmax() + 1) / len(orders)


def test_a_model_that_knows_the_answer_is_not_moved_by_averaging():
    gold = np.arange(40) % 4
    logprobs = np.log(np.full((40, 4, 4), 0.1))
    for index, order in enumerate(CYCLIC):
        shown = np.array([order.index(option) for option in gold])
        logprobs[np.arange(40), index, shown] = np.log(0.7)
    averaged = average_over_orders(logprobs, CYCLIC)
    assert averaged.prediction.tolist() == (gold + 1).tolist()
    assert averaged.agreement.tolist() == [1.0] * 40
    assert recall_std(gold + 1, averaged.prediction) == 0
    assert position_prior(logprobs, CYCLIC) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("kind", ["cyclic", "all"])
def test_a_model_that_only_knows_position_shows_as_such(tiny_model, kind):
    """The true chain, with a model whose head prefers the second label whatever it reads."""
    items = load_data("mini", languages=["fra_Latn"], difficulties=(1,)).items["fra_Latn"][:80]
    gold = np.array([item.correct_answer_num for item in items])
    folder = tiny_model("llama")
    model, tokenizer = load_base(folder, four_bit=False), load_tokenizer(folder)
    labels = tokenizer(["1234"], add_special_tokens=False)["input_ids"][0]

    def prefer_second(_module, _inputs, logits):
        biased = 0.05 * logits  # what is left of the text decides only among equals
        biased[..., labels] += 6
        biased[..., labels[1]] += 2
        return biased

    model.get_output_embeddings().register_forward_hook(prefer_second)
    orders = option_orders(kind)
    items = items[: 80 if kind == "cyclic" else 20]
    gold = gold[: len(items)]
    prompts = [
        render_prompts([reorder(item, order) for order in orders], PromptFormat(), tokenizer)
        for item in items
    ]
    engine = InProcessEngine(model, tokenizer, add_special_tokens=True)
    scores = engine.score_variants(prompts)
    before = engine.score([row[0] for row in prompts])
    averaged = average_over_orders(scores.logprobs, orders)
    assert before.predictions.tolist() == [2] * len(items)
    assert averaged.by_order[:, 0].tolist() == [2] * len(items)
    assert recall_std(gold, before.predictions) == pytest.approx(np.std([0, 1, 0, 0]))
    prior = position_prior(scores.logprobs, orders)
    assert prior.argmax() == 1 and prior[1] > 0.6 and prior.sum() == pytest.approx(1)
    # After averaging, its accuracy is chance and no position is preferred as before.
    accuracy = (averaged.prediction == gold).mean()
    assert abs(accuracy - 0.25) < 3 * np.sqrt(0.25 * 0.75 / len(items))
    assert np.ptp(np.exp(averaged.logprobs), axis=1).max() < 0.05
    assert averaged.agreement.tolist() == [0.25] * len(items)
    if kind == "cyclic":
        assert recall_std(gold, averaged.prediction) < 0.5 * recall_std(gold, before.predictions)


def test_recall_std_by_hand_and_where_a_position_is_missing():
    gold = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    prediction = np.array([1, 1, 2, 1, 1, 1, 4, 1])  # recalls 1, 0.5, 0, 0.5
    assert recall_std(gold, prediction) == pytest.approx(np.sqrt(0.125))
    assert np.isnan(recall_std(gold[:6], prediction[:6]))


def test_unfit_shapes_and_orders_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2, 4\); 4 orders need \(items, 4, 4\)"):
        average_over_orders(np.zeros((3, 2, 4)), CYCLIC)
    with pytest.raises(ValueError, match="no option orders"):
        average_over_orders(np.zeros((3, 0, 4)), [])
    with pytest.raises(ValueError, match="must hold each of 0, 1, 2 and 3 once"):
        average_over_orders(np.zeros((3, 1, 4)), [(1, 2, 3, 4)])
    with pytest.raises(ValueError, match="more often than another"):
        position_prior(np.zeros((3, 2, 4)), CYCLIC[:2])
