"""Makes hierarchical.json: the hierarchical model by NumPyro's NUTS, on one simulated data set.

Not part of the tests: ``pip install numpyro`` and ``python tests/references/hierarchical.py``.
It takes about a minute. The test compares analysis.estimators.hierarchical with what is stored.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import config, random
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

SCALES = (0.10, 0.05, 0.05, 0.05, 0.03)
FIXED = (0.50, 0.30, 0.20, 0.20)
SAMPLING = 0.0009
FAMILIES = ["R", "R", "R", "a", "a", "b", "c"]
RELATED = np.array([True] * 3 + [False] * 4)
WEAK = np.array([True] * 3 + [False] * 3)


def simulate() -> np.ndarray:
    """Draw gains (6 models x 7 languages)."""
    rng = np.random.default_rng(11)
    c, r = WEAK - WEAK.mean(), RELATED - RELATED.mean()
    gain = 0.2 + 0.2 * c[:, None] + 0.06 * r + 0.05 * c[:, None] * r
    gain = gain + rng.normal(0, 0.05, 6)[:, None] + rng.normal(0, 0.03, 7)
    return np.round(gain + rng.normal(0, 0.035, (6, 7)), 4)


def model(gain: np.ndarray) -> None:
    """Write the model down with every effect, none integrated out."""
    c, r = WEAK - WEAK.mean(), RELATED - RELATED.mean()
    _, place = np.unique(FAMILIES, return_inverse=True)
    mu, b, d, i = (
        numpyro.sample(name, dist.Normal(0, sd))
        for name, sd in zip(("mu", "B", "D", "I"), FIXED, strict=True)
    )
    names = ("model", "language", "family", "mixed", "residual")
    sd = [
        numpyro.sample(f"sd_{name}", dist.HalfNormal(scale))
        for name, scale in zip(names, SCALES, strict=True)
    ]
    sizes = (6, 7, int(place.max()) + 1, 6)
    z = [
        numpyro.sample(f"z_{name}", dist.Normal(0, 1).expand([size]))
        for name, size in zip(names, sizes, strict=False)
    ]
    mean = (
        mu + b * c[:, None] + d * r + i * c[:, None] * r
        + sd[0] * z[0][:, None] + sd[1] * z[1] + (sd[2] * z[2])[place] + sd[3] * z[3][:, None] * r
    )  # fmt: skip
    numpyro.sample("gain", dist.Normal(mean, (sd[4] ** 2 + SAMPLING) ** 0.5), obs=gain)


def main() -> None:
    """Run four chains and store their numbers."""
    config.update("jax_enable_x64", True)
    gain = simulate()
    kernel = NUTS(model, target_accept_prob=0.97)
    mcmc = MCMC(kernel, num_warmup=2000, num_samples=10_000, num_chains=4, progress_bar=False)
    mcmc.run(random.PRNGKey(0), gain)
    chains = mcmc.get_samples(group_by_chain=True)
    posterior = {}
    for name in ("D", "B", "I"):
        values = np.asarray(chains[name])
        sample = float(effective_sample_size(values))
        posterior[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "mcmc_error": float(values.std() / sample**0.5),
            "quantiles": {str(q): float(np.quantile(values, q)) for q in (0.025, 0.5, 0.975)},
        }
    stored = {
        "made_by": f"numpyro {numpyro.__version__}, NUTS, 4 chains of 10,000",
        "gain": gain.tolist(), "related": RELATED.tolist(), "weak": WEAK.tolist(),
        "families": FAMILIES, "sampling": SAMPLING, "posterior": posterior,
    }  # fmt: skip
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
