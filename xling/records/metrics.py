"""Numbers that summarise the answers to one language's items: arrays in, one number out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

LABELS = (1, 2, 3, 4)
CALIBRATION_BINS = 10


def clustered_stderr(
    correct: npt.NDArray[np.bool_ | np.float64], clusters: npt.NDArray[np.generic]
) -> float:
    """Return the standard error of an accuracy whose items come in clusters (here: passages).

    With s the 0/1 scores of n items, Miller 2024 ("Adding Error Bars to Evals") gives
    SE^2 = Var(s)/n + 1/n^2 * sum over clusters of sum over i != j of (s_i - mean)(s_j - mean),
    Var being the sample variance with divisor n - 1.

    Args:
        correct: Shape (n,), whether each item was answered correctly.
        clusters: Shape (n,), the cluster of each item.

    Returns:
        The standard error, in proportion; NaN if there are fewer than two clusters.

    Raises:
        ValueError: If the shapes differ.
    """
    if correct.shape != clusters.shape:
        raise ValueError(
            f"correct has shape {correct.shape} and clusters {clusters.shape}; "
            "give one cluster per item"
        )
    n = len(correct)
    codes, names = pd.factorize(clusters)
    if len(names) < 2:
        return float("nan")
    error = correct - correct.mean()
    sums = np.bincount(codes, weights=error)
    squares = float(error @ error)
    between_items = (float(sums @ sums) - squares) / n**2
    return float(np.sqrt(max(squares / (n - 1) / n + between_items, 0.0)))


def position_entropy(prediction: npt.NDArray[np.integer]) -> float:
    """Return the entropy of the predicted option positions, in bits.

    Args:
        prediction: Shape (n,), the chosen option of each item, 1 to 4.

    Returns:
        From 0 (always the same position) to 2 (all four equally often).

    Raises:
        ValueError: If there is no prediction.
    """
    if len(prediction) == 0:
        raise ValueError("position entropy needs at least one prediction")
    share = position_shares(prediction)
    share = share[share > 0]
    return float(max(-(share * np.log2(share)).sum(), 0.0))


def position_shares(position: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return how often each option position occurs.

    Args:
        position: Shape (n,), 1 to 4, n > 0.

    Returns:
        Shape (4,), proportions that sum to 1.
    """
    return np.asarray(np.bincount(position, minlength=5)[1:] / len(position), np.float64)


def option_probabilities(logprobs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return probabilities of the four options, as if there were no other answer.

    Args:
        logprobs: Shape (n, 4), natural logs.

    Returns:
        Shape (n, 4); each row sums to 1. A row that gives no option any probability (four times
        minus infinity, as where labels are not among an engine's likeliest tokens) is even.
    """
    from scipy.special import softmax  # a tenth of a second

    known = np.isfinite(logprobs).any(axis=1, keepdims=True)
    return np.asarray(softmax(np.where(known, logprobs, 0.0), axis=1), np.float64)


def expected_calibration_error(
    logprobs: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> float:
    """Measure how far confidence is from accuracy, over bins of confidence (Guo et al. 2017).

    ECE = sum over bins of (items in bin / n) * |accuracy - mean confidence| in that bin, with ten
    bins of equal width. An item's confidence is the largest of its four option probabilities,
    which are made to sum to 1.

    Args:
        logprobs: Shape (n, 4), natural logs.
        correct: Shape (n,), whether the most probable option is the right one.

    Returns:
        From 0 (confidence equals accuracy) to 1.

    Raises:
        ValueError: If there is no item.
    """
    if len(correct) == 0:
        raise ValueError("calibration needs at least one item")
    confidence = option_probabilities(logprobs).max(axis=1)
    places = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(places, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(correct))
