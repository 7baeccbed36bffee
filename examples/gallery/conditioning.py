"""Convection, reaction and wave: how ill-conditioned, by which term, and what L-BFGS mends.

P. Rathore, W. Lei, Z. Frangella, L. Lu and M. Udell, "Challenges in training PINNs: a loss
landscape perspective" (ICML 2024), estimate spectral densities of these three losses, of their
terms, and of the Hessian preconditioned by L-BFGS. Here the same is exact: all eigenvalues, of
networks with three layers of 20 units.
"""

import tempfile

import numpy as np
from style import BLUE, GREEN, ORANGE, arguments, figure, magnitudes, save

from pipeline import (
    RunOptions,
    analyse_terms,
    compute_hessian,
    load_problem,
    preconditioned_spectra,
    train,
)

options = arguments(__doc__)
size = {"width": 6, "num_interior": 100, "num_boundary": 30} if options.small else {"width": 20}
adam, lbfgs = (100, 50) if options.small else (500, 1000)

# %%
# Train with Adam and L-BFGS, keep L-BFGS's pairs of steps and changes of the gradient, compute the
# Hessian of each term, and both spectra of each.


def spectra(name):
    """Eigenvalues by part: of H, and of LᵀH L with L Lᵀ the inverse Hessian of L-BFGS."""
    problem = load_problem(name, dtype="float64", **size)
    trained = train(problem, adam_steps=adam, lbfgs_steps=lbfgs)
    print(f"{name}: loss {trained.loss:.2e}, relative L2 error {trained.error:.2e}")
    with tempfile.TemporaryDirectory() as directory:
        compute_hessian(problem, f"{directory}/h.zarr", options=RunOptions(per_term=True))
        analysis = analyse_terms(f"{directory}/h.zarr")
        mended = preconditioned_spectra(analysis.parts, trained.history)
    names = [part.term or "total" for part in analysis.parts]
    return dict(zip(names, zip(analysis.spectra, mended, strict=True), strict=True))


found = {name: spectra(name) for name in ("convection", "reaction", "wave")}

# %%
# The condition number κ counts the eigenvalues above the noise floor: a lower bound. The largest
# eigenvalue, and its ratio to the hundredth by magnitude, need no floor.


def leading_ratio(eigenvalues):
    """How many times larger the first is than the hundredth."""
    values = np.sort(np.abs(eigenvalues))
    return values[-1] / values[-100]


print(f"{'':49}H    preconditioned by L-BFGS")
print("problem     term      smallest  largest  1st/100th      κ ≥    largest  1st/100th")
for name, parts in found.items():
    for term, (plain, mended) in parts.items():
        lowest, top, after = plain.eigenvalues[0], plain.eigenvalues[-1], mended.eigenvalues[-1]
        print(
            f"{name:10}  {term:8}  {lowest:8.3g}  {top:7.4g}  "
            f"{leading_ratio(plain.eigenvalues):9.1e}  {plain.condition_number:7.1e}  "
            f"{after:9.3g}  {leading_ratio(mended.eigenvalues):9.1e}"
        )

# %%
# Densities: the number of eigenvalues in each half decade of magnitude, above the noise floor.

drawn, panels = figure(3, sharey=True)
for axes, (name, parts) in zip(panels, found.items(), strict=True):
    plain, mended = parts["total"]
    for one, colour, style, label in [
        (plain, BLUE, "-", "H"),
        (mended, ORANGE, "--", "preconditioned by L-BFGS"),
    ]:
        counts, edges = np.histogram(np.log10(magnitudes(one)), np.arange(-12, 6, 0.5))
        axes.stairs(counts, 10**edges, color=colour, ls=style, lw=1.4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="|λ|", title=name)
    axes.grid(alpha=0.3)
panels[0].set_ylabel("eigenvalues in half a decade")
panels[0].set_ylim(0.7, 5 * panels[0].get_ylim()[1])
panels[0].legend(fontsize=8, loc="upper left")
save(drawn, options.out / "conditioning.png")

# %%
# The same by term: magnitudes by rank.

drawn, panels = figure(3, sharey=True)
marks = [("-", "black"), ("--", BLUE), (":", ORANGE), ("-.", GREEN)]
for axes, (name, parts) in zip(panels, found.items(), strict=True):
    for (term, (plain, _)), (style, colour) in zip(parts.items(), marks, strict=False):
        values = magnitudes(plain)
        axes.plot(np.arange(1, len(values) + 1), values, style, color=colour, label=term)
    axes.set(xscale="log", yscale="log", xlabel="rank", title=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
panels[0].set_ylabel("|λ|")
save(drawn, options.out / "conditioning_terms.png")

# %%
# L-BFGS brings the largest eigenvalue down by orders of magnitude, for every problem.

for name, parts in found.items():
    plain, mended = parts["total"]
    factor = 10 if options.small else 1e2
    assert plain.eigenvalues[-1] > factor * mended.eigenvalues[-1], name
