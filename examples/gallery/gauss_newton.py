"""What Gauss-Newton misses, along training.

The Gauss-Newton matrix G is the Hessian H without the curvature of the residuals,
H - G = Σ 2 w / (N C) Σ r ∂²r/∂θ². How much is missing at the start, on the way, and at the end?
"""

import tempfile

import numpy as np
from style import BLUE, ORANGE, arguments, figure, save

from pipeline import RunOptions, analyse_terms, compute_hessian, load_problem, train

options = arguments(__doc__)
width = 6 if options.small else 20
poisson = load_problem("poisson", width=width, dtype="float64")

# %%
# Stations: steps of Adam, then of L-BFGS, each from where the last one ended.

stations = [(0, 0), (100, 0), (400, 0), (1500, 0), (0, 100), (0, 400), (0, 1500)]
if options.small:
    stations = [(0, 0), (200, 0), (0, 100)]


def analyse():
    """H, G and the rest at the weights as they are now."""
    with tempfile.TemporaryDirectory() as directory:
        chosen = RunOptions(with_ggn=True, per_term=True)
        compute_hessian(poisson, f"{directory}/both.zarr", options=chosen)
        return analyse_terms(f"{directory}/both.zarr")


losses, missing, lowest = [], {}, []
print("   steps       loss   smallest λ of H     |H-G|/|H|")
for adam, lbfgs in stations:
    losses.append(train(poisson, adam_steps=adam, lbfgs_steps=lbfgs).loss)
    found = analyse()
    norms = dict(zip([part.label for part in found.parts], found.norms, strict=True))
    for label in ("H", "H pde", "H dirichlet"):
        gap = norms[label.replace("H", "H-G", 1)] / norms[label]
        missing.setdefault(label, []).append(gap)
    lowest.append(found.spectra[0].eigenvalues[0])
    steps = f"+{adam} Adam" if adam else f"+{lbfgs} L-BFGS"
    print(f"{steps:>12}  {losses[-1]:.2e}  {lowest[-1]:13.3g}  {missing['H'][-1]:14.2e}")

# %%
# H - G is linear in the residuals. Where the network hardly changes any more, its norm falls as
# they do, as the square root of the loss: a line of slope one half.

drawn, axes = figure(width=6)
marks = {"H": ("o-", BLUE), "H pde": ("s--", ORANGE), "H dirichlet": ("^:", "0.45")}
for label, (mark, colour) in marks.items():
    name = "total" if label == "H" else label[2:]
    axes.plot(losses, missing[label], mark, ms=5, color=colour, label=name)
guide = missing["H"][-1] * np.sqrt(np.array(losses) / losses[-1])
axes.plot(losses, guide, color="black", lw=0.8, label="slope ½")
axes.set(xscale="log", yscale="log", xlabel="loss", ylabel="‖H - G‖ / ‖H‖, Frobenius norms")
axes.invert_xaxis()
axes.grid(alpha=0.3)
axes.legend(fontsize=8, title="loss term")
save(drawn, options.out / "gauss_newton.png")

# %%
# G misses much of H at the start, and little at the end.

slope = np.polyfit(np.log(losses), np.log(missing["H"]), 1)[0]
print(f"slope {slope:.2f}")
assert missing["H"][0] > 10 * missing["H"][-1]
