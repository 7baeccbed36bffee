"""Which directions stay during training.

What is stiff early in training, is it what is stiff in the end? The curvature of the Poisson
problem is observed while it is trained, by products alone, and the report of that is drawn.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from style import arguments

from pipeline import open_watched

options = arguments(__doc__)
width, adam, lbfgs, every = (6, 100, 100, 50) if options.small else (30, 1000, 1000, 100)
hessian = Path(sys.executable).with_name("hessian")

# %%
# Train and watch, and draw what was seen; float64.

with tempfile.TemporaryDirectory() as directory:
    run = {"cwd": directory, "check": True, "stdout": subprocess.DEVNULL}
    problem = ["poisson", "-o", f"width={width}", "-o", "dtype=float64"]
    steps = ["--adam", str(adam), "--lbfgs", str(lbfgs), "--watch", str(every)]
    subprocess.run([hessian, "train", *problem, *steps], **run)
    subprocess.run([hessian, "report", "trained-watched.zarr"], **run)
    options.out.mkdir(parents=True, exist_ok=True)
    for drawn, name in [("course", "watching"), ("gradient", "watching_gradient")]:
        picture = f"{directory}/trained-watched-report/pictures/{drawn}.png"
        shutil.copy(picture, options.out / f"{name}.png")
        print(f"picture {name}.png")
    found = open_watched(f"{directory}/trained-watched.zarr").load()

# %%
# How much of the span of the three stiffest directions is that of an earlier step: the mean squared
# cosine of the principal angles.


def kept(before, after):
    """Of two observations."""
    first, second = (found.eigenvector[k].values[:, -3:] for k in (before, after))
    return np.sum((first.T @ second) ** 2) / 3


print("  step  phase       loss  largest   smallest  aligned  kept")
for k, step in enumerate(found.step.values):
    at = found.isel(step=k)
    print(
        f"{step:6}  {at.phase.values!s:5}  {float(at.loss):9.2e}"
        f"  {float(at.eigenvalue[-1]):7.1f}  {float(at.eigenvalue[0]):9.2e}"
        f"  {float(at.alignment):7.1%}" + (f"  {kept(k - 1, k):4.0%}" if k else "")
    )
print(f"kept from the first step to the last: {kept(0, -1):.1%}")

# %%
# What bends down goes, and the stiffest directions in the end are not those of the beginning.

top, bottom = found.eigenvalue[:, -1], found.eigenvalue[:, 0]
assert -bottom[-1] / top[-1] < 0.1 * -bottom[0] / top[0]
assert kept(0, -1) < 0.5
