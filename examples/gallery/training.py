"""The spectrum before and after training.

What does training a PINN do to the curvature of its loss? All eigenvalues of the Hessian of the
Poisson problem, at the initial weights and after Adam and L-BFGS.
"""

import tempfile

import numpy as np
from style import BLUE, ORANGE, arguments, figure, save

from pipeline import compute_hessian, load_problem, spectrum, train, verify_hessian

# %%
# float64, so that small eigenvalues are not rounding.

options = arguments(__doc__)
width, adam, lbfgs = (8, 200, 100) if options.small else (50, 2000, 2000)
poisson = load_problem("poisson", width=width, dtype="float64")


def exact_spectrum():
    """Of the network as it is now; the certificate gives the noise floor."""
    with tempfile.TemporaryDirectory() as directory:
        compute_hessian(poisson, f"{directory}/h.zarr")
        assert verify_hessian(f"{directory}/h.zarr", poisson).passed
        return spectrum(f"{directory}/h.zarr")


before = exact_spectrum()
trained = train(poisson, adam_steps=adam, lbfgs_steps=lbfgs)
after = exact_spectrum()
print(f"loss {trained.loss:.2e}, relative L2 error {trained.error:.2e}")

# %%
# Training leaves a few stiff directions and flattens the rest.

for name, found in [("before", before), ("after", after)]:
    values, top = found.eigenvalues, found.eigenvalues[-1]
    stiff = np.sum(values > 1e-3 * top)
    negative = -values[0] / top
    print(
        f"{name:6}  largest {top:9.4g}, smallest {values[0]:9.3g}, {stiff:3} above a thousandth of "
        f"the largest, {np.sum(values < -found.noise_floor):4} negative"
    )

# %%
# By rank, both signs.

drawn, panels = figure(2, sharey=True)
for axes, name, found in zip(panels, ("before", "after"), (before, after), strict=True):
    positive = found.eigenvalues[found.eigenvalues > 0][::-1]
    negative = -found.eigenvalues[found.eigenvalues < 0]
    axes.plot(np.arange(1, len(positive) + 1), positive, "o", ms=2, color=BLUE, label="λ > 0")
    axes.plot(
        np.arange(1, len(negative) + 1), negative, "^", ms=2, color=ORANGE, label="|λ|, λ < 0"
    )
    axes.axhline(found.noise_floor, color="0.4", ls="--", lw=1, label="noise floor")
    axes.set(xscale="log", yscale="log", xlabel="rank", title=f"{name} training")
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=1e-14)
panels[0].set_ylabel("magnitude of the eigenvalue")
panels[1].legend(fontsize=8)
save(drawn, options.out / "training.png")

# %%
# At initial weights the loss bends down in many directions. After training what is left of that,
# against the largest eigenvalue, is a hundredth of what it was, or less.

assert -after.eigenvalues[0] / after.eigenvalues[-1] < 1e-2 * -(
    before.eigenvalues[0] / before.eigenvalues[-1]
)
