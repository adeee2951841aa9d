"""A hierarchical model of the gains: partial pooling over models, languages and families.

gain[m, l] = mu + b c[m] + d r[l] + i c[m] r[l]
             + model[m] + language[l] + family[top family of l] + w[m] r[l] + rest[m, l]

c marks weak models and r related languages, both centred, so that b is B, d is D and i is I. The
fixed effects have normal priors, the standard deviations half-normal ones; `rest` has a known part
from the choice of items and a free one. Given the standard deviations everything is normal and
integrated in closed form; over them the posterior is summed by importance sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats
from scipy.stats import qmc

from analysis.arrays import Floats, Integers
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.gains.baselines import NEEDS_MODELS, BaselineGroups
from analysis.gains.gain_table import POINTS, GainTable
from analysis.gains.items import ItemGains

SPREADS = ("model", "language", "family", "model x related", "residual")
SCALES = np.array([0.10, 0.05, 0.05, 0.05, 0.03])
"""Half-normal scales of the standard deviations, in proportion, in the order of SPREADS."""
FIXED = np.array([0.50, 0.30, 0.20, 0.20])
"""Standard deviations of the normal priors of mu, B, D and I, in proportion."""
N_POINTS = 2**14
LEAST_FAMILIES = 8
LEAST_SAMPLE = 400
FEW_FAMILIES = f"fewer than {LEAST_FAMILIES} control families: D is its prior"
ONE_AND_ONE = "one weak and one strong model: B and I are their priors"
_UNIT = "models, languages, families"
_PRIOR_SHARE = 0.125
_DF = 4.0
_ROUNDS, _WIDER = 3, 1.2


@dataclass(frozen=True)
class RotatedGains:
    """Gains of M models in L languages, rotated so that models' contrasts are independent.

    `mean` (L,) is sqrt(M) times the mean over models; `by_family` are the sums over the languages
    of each top family of the columns 1, r and `mean`, shape (3, K), and `size` (K,) counts these
    languages. `along` (2,) is the weak - strong contrast projected on 1 and on r, `others` (2,)
    the sums of squares of the M - 2 further contrasts so projected, `rest` the sum of squares of
    all M - 1 off both. `length` is |c|, 0 without groups, and `sampling` the known variance.
    """

    mean: Floats
    related: Floats
    by_family: Floats
    size: Integers
    along: Floats
    others: Floats
    rest: float
    length: float
    n_models: int
    sampling: float


@dataclass(frozen=True)
class Posterior:
    """What is known of an effect: a mixture of normals, one for each draw of the deviations.

    `weight`, `mean` and `sd` have shape (draws,); `sample` is the effective number of draws.
    """

    weight: Floats
    mean: Floats
    sd: Floats
    sample: float

    @property
    def estimate(self) -> float:
        """Posterior mean."""
        return float(self.weight @ self.mean)

    @property
    def spread(self) -> float:
        """Posterior standard deviation."""
        square = self.weight @ (self.sd**2 + self.mean**2)
        return float(np.sqrt(max(float(square) - self.estimate**2, 0.0)))

    def below(self, value: float) -> float:
        """Return the posterior probability of a smaller value."""
        return float(self.weight @ stats.norm.cdf((value - self.mean) / self.sd))

    def quantile(self, share: float) -> float:
        """Return the value with this posterior probability below it."""
        far = 12 * self.spread + 1e-9
        low, high = self.estimate - far, self.estimate + far
        found: float = optimize.brentq(lambda q: self.below(q) - share, low, high, xtol=1e-9)
        return found


def hierarchical_rows(table: GainTable, groups: BaselineGroups, seed: int) -> list[Estimate]:
    """Return D, B and I of the hierarchical model, with its priors and with others.

    Args:
        table: Gains by unit, with item records.
        groups: Weak and strong models; without any, D alone has numbers.
        seed: Of the points that the standard deviations are drawn at.

    Returns:
        Rows of D, B and I on points for each of three sets of priors of the standard deviations:
        as they are, halved and tripled. `estimate` is the posterior mean, `se` its standard
        deviation, the interval the central 95 %; there is no p. With fewer than 8 control families
        D has a status: its interval would be the prior's.
    """
    rows: list[Estimate] = []
    for words, factor in (("", 1.0), (", prior x 1/2", 0.5), (", prior x 3", 3.0)):
        rows += _rows(table, groups, seed, f"hierarchical{words}", factor)
    return rows


def _rows(
    table: GainTable, groups: BaselineGroups, seed: int, estimator: str, factor: float
) -> list[Estimate]:
    status = _status(table)
    families = len({f for f, used in zip(table.top_family, table.unrelated, strict=True) if used})
    named = {groups.group.get(model) for model in table.models}
    grouped = groups.status == OK and not groups.changing and named == {"weak", "strong"}
    grouped = grouped and len(table.models) > 2
    kept = {
        "D": status if status != OK or families >= LEAST_FAMILIES else FEW_FAMILIES,
        "B": status if status != OK or grouped else groups.status,
        "I": status if status != OK or grouped else groups.status,
    }
    if groups.status == OK and status == OK and not grouped:
        kept |= dict.fromkeys("BI", _no_groups(table, groups))
    rows = {
        name: Estimate(
            f"{name}{table.label}", POINTS, estimator, status=of,
            baseline_source=groups.source if name != "D" else "none",
            note=groups.note if name != "D" else "",
            **{**table.shared, "unit": _UNIT},
        )
        for name, of in kept.items()
    }  # fmt: skip
    if all(row.status != OK for row in rows.values()) or table.items is None:
        return list(rows.values())
    weak = np.array([groups.group.get(m) == "weak" for m in table.models]) if grouped else None
    rotated = rotate_gains(
        table.gain[POINTS], table.related, table.top_family, weak, sampling_variance(table.items)
    )
    found = fit(rotated, SCALES * factor, seed)
    filled = []
    for name, row in rows.items():
        if row.status == OK:
            row = _with_posterior(row, found[name], factor)
        filled.append(row)
    return filled


def _no_groups(table: GainTable, groups: BaselineGroups) -> str:
    """Say why groups that are there cannot be used."""
    if groups.changing:
        return f"models change baseline group between folds: {', '.join(groups.changing)}"
    without = [model for model in table.models if model not in groups.group]
    if not without and len({groups.group[model] for model in table.models}) == 2:
        return ONE_AND_ONE
    return f"no baseline group of {without[0]}" if without else NEEDS_MODELS


def _status(table: GainTable) -> str:
    if table.status != OK:
        return table.status
    if len(table.models) < 2:
        return "needs 2 models"
    if table.items is None:
        return table.item_status
    if table.items.n_passages < 2:
        return "needs 2 passages"
    gain = table.gain[POINTS]
    # Effects of models and of languages alone leave a residual of 0, and no density has a mode.
    rest = gain - gain.mean(axis=0) - gain.mean(axis=1, keepdims=True) + gain.mean()
    return ZERO_VARIANCE if np.ptp(rest) < 1e-9 else OK


def _with_posterior(row: Estimate, found: Posterior, factor: float) -> Estimate:
    if found.sample < LEAST_SAMPLE:
        return replace(row, status=f"effective sample of {found.sample:.0f} is too small")
    scales = ", ".join(
        f"{name} {100 * factor * scale:g}" for name, scale in zip(SPREADS, SCALES, strict=True)
    )
    said = (
        f"posterior; half-normal priors of standard deviations in points: {scales}; effective "
        f"sample {found.sample:,.0f} of {N_POINTS:,}"
    )
    return replace(
        row,
        estimate=found.estimate,
        se=found.spread,
        ci_low=found.quantile(0.025),
        ci_high=found.quantile(0.975),
        note="; ".join(filter(None, [row.note, said])),
    )


def sampling_variance(items: ItemGains) -> float:
    """Return the variance of a cell's gain from the choice of passages, in squared proportion.

    Of the items' gains with the means over models and over languages taken out: what an item does
    in all cells cancels from every contrast, and what it does to a language or to a model is in
    the spread of these (plugging in a cell's whole variance would count that twice).
    """
    gain = np.asarray(items.gain, np.float64)
    m, n_languages, n = gain.shape
    for axis in (0, 1):
        gain = gain - gain.mean(axis=axis, keepdims=True)
    flat = gain.reshape(m * n_languages, n)
    sums = np.stack([np.bincount(items.passage, row - row.mean()) for row in flat])
    passages = sums.shape[1]
    total = float((sums**2).sum()) / n**2 * passages / (passages - 1)
    return float(total / ((m - 1) * (n_languages - 1)))


def rotate_gains(
    gain: Floats, related: np.ndarray, families: tuple[str, ...], weak: np.ndarray | None,
    sampling: float,
) -> RotatedGains:  # fmt: skip
    """Rotate gains over models: their mean, the weak - strong contrast, and the rest.

    Args:
        gain: Shape (M, L), in proportion.
        related: Shape (L,).
        families: Top family of each language.
        weak: Shape (M,); None without groups.
        sampling: Known variance of a cell.
    """
    n_models, n_languages = gain.shape
    r = related - related.mean()
    unit = np.stack([np.full(n_languages, n_languages**-0.5), r / np.linalg.norm(r)])
    c = np.zeros(n_models) if weak is None else weak - weak.mean()
    length = float(np.linalg.norm(c))
    mean = gain.sum(axis=0) * n_models**-0.5
    centred = gain - gain.mean(axis=0)
    contrast = c @ gain / length if length else np.zeros(n_languages)
    projected = centred @ unit.T
    along = unit @ contrast
    names, place = np.unique(np.array(families, np.str_), return_inverse=True)
    columns = np.stack([np.ones(n_languages), r, mean])
    sums = np.array([np.bincount(place, column, len(names)) for column in columns], np.float64)
    return RotatedGains(
        mean=mean, related=np.asarray(r, np.float64), by_family=sums, size=np.bincount(place),
        along=along, others=np.maximum((projected**2).sum(axis=0) - along**2, 0.0),
        rest=max(float((centred**2).sum() - (projected**2).sum()), 0.0),
        length=length, n_models=n_models, sampling=sampling,
    )  # fmt: skip


@dataclass(frozen=True)
class _Conditional:
    """Given each draw of the deviations: log likelihood, and means and variances of D, B, I."""

    log_likelihood: Floats
    mean: dict[str, Floats]
    variance: dict[str, Floats]


def condition(data: RotatedGains, spreads: Floats) -> _Conditional:
    """Integrate the normal effects out, given standard deviations.

    Args:
        data: Rotated gains.
        spreads: Standard deviations, shape (draws, 5), in the order of SPREADS.
    """
    model, language, family, mixed, residual = np.minimum(spreads, 1e3).T ** 2
    noise = data.sampling + residual
    n_languages, m = len(data.mean), data.n_models
    norm = float(data.related @ data.related)
    # The contrasts of models: independent, and on 1 and r each has a variance of its own.
    on_one, on_r = noise + n_languages * model, noise + norm * mixed
    n_others = m - 1 - (data.length > 0)
    log = -0.5 * (
        n_others * (np.log(on_one) + np.log(on_r))
        + data.others[0] / on_one + data.others[1] / on_r
        + (m - 1) * (n_languages - 2) * np.log(noise) + data.rest / noise
    )  # fmt: skip
    means: dict[str, Floats] = {}
    variances: dict[str, Floats] = {}
    for name, error, size, prior, value in (
        ("B", on_one, n_languages**0.5, FIXED[1], data.along[0]),
        ("I", on_r, norm**0.5, FIXED[3], data.along[1]),
    ):
        if not data.length:
            break
        slope = data.length * size
        total = error + (slope * prior) ** 2
        log = log - 0.5 * (np.log(total) + value**2 / total)
        variances[name] = prior**2 * error / total
        means[name] = prior**2 * slope * value / total
    mean_log, means["D"], variances["D"] = _mean_block(data, noise + m * language, m * family,
                                                       np.stack([model, mixed]))  # fmt: skip
    return _Conditional(log + mean_log, means, variances)


def _mean_block(
    data: RotatedGains, single: Floats, shared: Floats, spread: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return log likelihood, mean and variance of D from the models' mean gains.

    Their covariance is `single` on the diagonal, `shared` within a family, and `spread` along 1 and
    r; inverted family by family, and for the last two by Woodbury's identity.
    """
    columns = np.stack([np.ones_like(data.mean), data.related, data.mean])
    inner = columns @ columns.T
    share = shared[:, None] / (single[:, None] + shared[:, None] * data.size)
    sums = data.by_family
    form = (inner - np.einsum("sk,ik,jk->sij", share, sums, sums)) / single[:, None, None]
    n_families = len(data.size)
    log_det = (len(data.mean) - n_families) * np.log(single) + np.log(
        single[:, None] + shared[:, None] * data.size
    ).sum(axis=1)
    t, projected, square = form[:, :2, :2], form[:, :2, 2], form[:, 2, 2]
    prior = FIXED[[0, 2]] ** 2
    one = np.eye(2)
    wide = spread.T + data.n_models * prior
    inside = one + wide[:, :, None] * t
    explained = np.linalg.solve(inside, wide[:, :, None] * projected[:, :, None])[..., 0]
    quadratic = square - np.einsum("si,si->s", projected, explained)
    log = -0.5 * (log_det + np.log(np.linalg.det(inside)) + quadratic)
    # Fixed effects given the random ones integrated out: precision and weighted response.
    outside = one + t * spread.T[:, None, :]
    precision = data.n_models * np.linalg.solve(outside, t) + np.diag(1 / prior)
    response = data.n_models**0.5 * np.linalg.solve(outside, projected[:, :, None])
    covariance = np.linalg.inv(precision)
    return log, (covariance @ response)[:, 1, 0], covariance[:, 1, 1]


def fit(
    data: RotatedGains, scales: Floats, seed: int, n_points: int = N_POINTS
) -> dict[str, Posterior]:
    """Return the posteriors of D, and of B and I where there are groups.

    The standard deviations are drawn at scrambled Sobol points from a mixture of a multivariate t
    around the mode of their logarithms and of the prior, and weighted by what the posterior is
    over that mixture.

    Args:
        data: Rotated gains.
        scales: Half-normal scales of the standard deviations, shape (5,).
        seed: Of the points.
        n_points: How many, a power of 2.
    """
    n = len(scales)

    def log_posterior(logs: Floats) -> Floats:
        """Return the log density of log deviations, shape (draws, 5) to (draws,)."""
        likelihood = condition(data, np.exp(logs)).log_likelihood
        return np.asarray(likelihood + _log_prior(logs, scales), np.float64)

    mode, root = _mode(log_posterior, np.log(scales / 2))
    rng = np.random.default_rng(seed)
    # The mode's curvature misses ridges and tails: move the proposal to what was found, thrice.
    for _ in range(_ROUNDS):
        logs, mixture = _proposed(mode, root, scales, n_points // 4, rng)
        weight = _weights(log_posterior(logs) - mixture)
        mode = weight @ logs
        off = (logs - mode) * np.sqrt(weight)[:, None]
        spread = np.linalg.cholesky(off.T @ off + 1e-4 * np.eye(n))
        root = np.asarray(_WIDER * spread, np.float64)
    logs, mixture = _proposed(mode, root, scales, n_points, rng)
    given = condition(data, np.exp(logs))
    weight = _weights(given.log_likelihood + _log_prior(logs, scales) - mixture)
    sample = float(1 / (weight @ weight))
    return {
        name: Posterior(weight, given.mean[name], np.sqrt(given.variance[name]), sample)
        for name in given.mean
    }


def _proposed(
    centre: Floats, root: Floats, scales: Floats, n_points: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw log deviations from the mixture of a t around `centre` and the prior.

    Returns:
        The draws (n_points, 5) and the log density of the mixture at each.
    """
    n = len(centre)
    points = np.clip(qmc.Sobol(n + 1, rng=rng).random(n_points), 1e-10, 1 - 1e-10)
    first = int(_PRIOR_SHARE * n_points)
    around, others = points[first:], points[:first]
    stretch = np.sqrt(_DF / stats.chi2.ppf(around[:, n], _DF))[:, None]
    logs = np.vstack([
        np.log(stats.halfnorm.ppf(others[:, :n], scale=scales)),
        centre + stretch * stats.norm.ppf(around[:, :n]) @ root.T,
    ])  # fmt: skip
    drawn = stats.multivariate_t(centre, root @ root.T, df=_DF).logpdf(logs)
    prior = _log_prior(logs, scales)
    return logs, np.logaddexp(np.log(1 - _PRIOR_SHARE) + drawn, np.log(_PRIOR_SHARE) + prior)


def _log_prior(logs: Floats, scales: Floats) -> Floats:
    """Return the prior's log density of log deviations, (draws, 5) to (draws,)."""
    # Beyond ten scales the density is 0 to all digits, and its logarithm would overflow.
    spreads = np.exp(np.minimum(logs, np.log(1e3)))
    density = stats.halfnorm.logpdf(spreads, scale=scales) + logs
    return np.asarray(density.sum(axis=1), np.float64)


def _weights(log_weight: Floats) -> Floats:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum(), np.float64)


def _mode(log_density, start: Floats) -> tuple[Floats, Floats]:  # type: ignore[no-untyped-def]
    """Return the mode of a log density and a root of the covariance that its curvature gives."""
    found = optimize.minimize(
        lambda x: -float(log_density(x[None])[0]), start, method="L-BFGS-B",
        bounds=[(np.log(1e-5), np.log(2.0))] * len(start),
    )  # fmt: skip
    mode, step, n = np.asarray(found.x, np.float64), 0.05, len(start)
    shifts = step * np.eye(n)
    places = [
        mode + a * shifts[i] + b * shifts[j]
        for i in range(n) for j in range(n) for a in (1, -1) for b in (1, -1)
    ]  # fmt: skip
    values = log_density(np.stack(places)).reshape(n, n, 4)
    curvature = -(values[..., 0] - values[..., 1] - values[..., 2] + values[..., 3]) / (4 * step**2)
    size, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    # A flat direction, of a deviation that may well be 0, is searched over two units of its log.
    return mode, vectors * np.maximum(size, 0.25) ** -0.5
