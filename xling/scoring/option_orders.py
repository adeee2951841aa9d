"""Option orders: how much of an answer is the option's text, and how much its position.

The measures are those of Zheng et al. 2024 (Large Language Models Are Not Robust Multiple Choice
Selectors, arXiv 2309.03882).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from xling.prompts import Question

OPTIONS = 4
ORDERS = ("cyclic", "all")

Order = tuple[int, ...]


@dataclass(frozen=True)
class ReorderedQuestion:
    """A question whose options are in another order.

    Attributes:
        flores_passage: the text that the question is about.
        question: the question.
        answers: the four options, as shown.
    """

    flores_passage: str
    question: str
    answers: tuple[str, str, str, str]


@dataclass(frozen=True)
class AveragedOrders:
    """Answers to n items, averaged over k orders of their options.

    Attributes:
        logprobs: shape (n, 4), float64; natural log of the mean over orders of the probability of
            the label that each ORIGINAL option had in that order.
        by_order: shape (n, k), int8; the original option (1–4) chosen in each order.
    """

    logprobs: npt.NDArray[np.float64]
    by_order: npt.NDArray[np.int8]

    @property
    def answer_mass(self) -> npt.NDArray[np.float64]:
        """Shape (n,); mean over orders of the probability of any of the four labels, 0–1."""
        mass: npt.NDArray[np.float64] = np.exp(self.logprobs).sum(axis=1)
        return mass

    @property
    def prediction(self) -> npt.NDArray[np.int8]:
        """Shape (n,); the original option of the highest mean probability, 1–4."""
        best: npt.NDArray[np.int8] = (self.logprobs.argmax(axis=1) + 1).astype(np.int8)
        return best

    @property
    def agreement(self) -> npt.NDArray[np.float64]:
        """Shape (n,); share of the orders in which the averaged prediction is chosen, 0–1."""
        share: npt.NDArray[np.float64] = (self.by_order == self.prediction[:, None]).mean(axis=1)
        return share


def option_orders(kind: str) -> tuple[Order, ...]:
    """Return orders in which each option takes each position equally often, the identity first.

    Args:
        kind: ``cyclic`` (4 orders) or ``all`` (24): cyclic and full permutation of Zheng et al.

    Returns:
        In each order, position k shows the item's option ``order[k]``, both counted from 0.

    Raises:
        ValueError: another kind.
    """
    if kind == "cyclic":
        return tuple(
            tuple((shift + position) % OPTIONS for position in range(OPTIONS))
            for shift in range(OPTIONS)
        )
    if kind == "all":
        return tuple(permutations(range(OPTIONS)))
    raise ValueError(f"option orders {kind!r} are unknown; use {' or '.join(ORDERS)}")


def reorder(item: Question, order: Order) -> ReorderedQuestion:
    """Return the item with its option ``order[k]`` at position k.

    Raises:
        ValueError: the order does not hold each of 0–3 once.
    """
    _check_orders([order])
    first, second, third, fourth = (item.answers[option] for option in order)
    return ReorderedQuestion(item.flores_passage, item.question, (first, second, third, fourth))


def average_over_orders(
    logprobs: npt.NDArray[np.float64], orders: Sequence[Order]
) -> AveragedOrders:
    """Average the probability of each original option over the orders that it was shown in.

    Probabilities are over the whole vocabulary, so that an order in which the model hardly answers
    at all counts for little.

    Args:
        logprobs: shape (n, k, 4); natural log-probabilities of the labels, by item, order and
            position shown.
        orders: the k orders.

    Raises:
        ValueError: the shape does not fit the orders, or an order is not one of 0–3.
    """
    _check_shape(logprobs, orders)
    original = np.empty_like(logprobs)
    for index, order in enumerate(orders):
        original[:, index, list(order)] = logprobs[:, index]
    mean = np.logaddexp.reduce(original, axis=1) - np.log(len(orders))
    return AveragedOrders(mean, (original.argmax(axis=2) + 1).astype(np.int8))


def recall_std(gold: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer]) -> float:
    """Measure position bias: how much the recalls of the four positions differ.

    RStd of Zheng et al.: the standard deviation (of a population) of the shares of items that are
    answered correctly, among those whose gold option is at position 1, 2, 3 and 4.

    Args:
        gold: shape (n,); 1–4, as shown.
        prediction: shape (n,); 1–4, as shown.

    Returns:
        In proportion, 0–0.5; NaN if a position is no item's gold.
    """
    positions = range(1, OPTIONS + 1)
    if any(not (gold == position).any() for position in positions):
        return float("nan")
    return float(
        np.std([(prediction[gold == position] == position).mean() for position in positions])
    )


def position_prior(
    logprobs: npt.NDArray[np.float64], orders: Sequence[Order]
) -> npt.NDArray[np.float64]:
    """Return the probability that a model gives each position, whatever option is there.

    The mean over items and orders of the four labels' probabilities, scaled to sum to 1 in each.
    Each option must be at each position equally often, so that the options' texts average out;
    the orders of `option_orders` are such.

    Args:
        logprobs: shape (n, k, 4), n at least 1; as in `average_over_orders`.
        orders: the k orders.

    Returns:
        Shape (4,), sums to 1.

    Raises:
        ValueError: the shape does not fit the orders, or the orders favour some position.
    """
    _check_shape(logprobs, orders)
    by_position = np.array(orders)
    if any(len(set(np.bincount(column, minlength=OPTIONS))) > 1 for column in by_position.T):
        raise ValueError(
            f"in the orders {list(orders)} some option is at a position more often than "
            "another does; use those of option_orders"
        )
    normalised = np.exp(logprobs - np.logaddexp.reduce(logprobs, axis=2, keepdims=True))
    prior: npt.NDArray[np.float64] = normalised.mean(axis=(0, 1))
    return prior


def _check_shape(logprobs: npt.NDArray[np.float64], orders: Sequence[Order]) -> None:
    _check_orders(orders)
    if logprobs.ndim != 3 or logprobs.shape[1:] != (len(orders), OPTIONS):
        raise ValueError(
            f"log-probabilities have shape {logprobs.shape}; {len(orders)} orders need "
            f"(items, {len(orders)}, {OPTIONS})"
        )


def _check_orders(orders: Sequence[Order]) -> None:
    if not orders:
        raise ValueError("no option orders were given; use those of option_orders")
    for order in orders:
        if sorted(order) != list(range(OPTIONS)):
            raise ValueError(f"option order {order} must hold each of 0, 1, 2 and 3 once")
