"""The Hessian across widths.

Wider networks have more parameters. Do they have more curvature? The Poisson problem, trained in
the same way with layers of several widths, and all eigenvalues of each.
"""

import tempfile

import matplotlib as mpl
import numpy as np
from style import arguments, figure, magnitudes, save

from pipeline import compute_hessian, effective_dimension, load_problem, spectrum, train

options = arguments(__doc__)
widths, adam, lbfgs = ([4, 8], 100, 50) if options.small else ([10, 20, 30, 40], 500, 500)

# %%
# Train, compute, decompose; float64.

found = {}
for width in widths:
    poisson = load_problem("poisson", width=width, dtype="float64")
    trained = train(poisson, adam_steps=adam, lbfgs_steps=lbfgs)
    with tempfile.TemporaryDirectory() as directory:
        compute_hessian(poisson, f"{directory}/h.zarr")
        found[width] = spectrum(f"{directory}/h.zarr")
    print(f"width {width:3}  loss {trained.loss:.2e}, relative L2 error {trained.error:.2e}")

# %%
# The number of directions that matter at a damping μ is d(μ) = Σ |λ| / (|λ| + μ).

dampings = [1e-2, 1e-4, 1e-6]
print("width      P   largest     trace  negative" + "".join(f"  d({mu:.0e})" for mu in dampings))
dimensions = {}
for width, one in found.items():
    values = one.eigenvalues
    dimensions[width] = [effective_dimension(values, mu) for mu in dampings]
    negative = np.sum(values < -one.noise_floor)
    numbers = "".join(f"{d:10.1f}" for d in dimensions[width])
    print(f"{width:5}  {len(values):5}  {values[-1]:8.4g}  {one.trace:8.4g}  {negative:8}{numbers}")

# %%
# All magnitudes by rank, down to the noise floor.

drawn, axes = figure(width=6)
shades = np.linspace(0.0, 0.85, len(widths))
for (width, one), shade in zip(found.items(), shades, strict=True):
    values, label = magnitudes(one), f"{width}: P = {len(one.eigenvalues):,}"
    colour = mpl.colormaps["cividis"](shade)
    axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label)
axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="|λ|")
axes.grid(alpha=0.3)
axes.legend(fontsize=8, title="width")
save(drawn, options.out / "widths.png")

# %%
# P grows by far more than the number of stiff directions. The small networks are all but full of
# them, so that there the gap is smaller.

narrow, wide = widths[0], widths[-1]
growth = len(found[wide].eigenvalues) / len(found[narrow].eigenvalues)
assert dimensions[wide][0] / dimensions[narrow][0] < growth * (0.75 if options.small else 0.2)
