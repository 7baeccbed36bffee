"""Training: bring a problem's network to a minimum whose Hessian is worth having.

Adam finds the valley, another optimiser its floor: the usual pair for PINNs. All see the full
loss, the very one whose Hessian is computed, at all points at once.

- :mod:`~pipeline.training._objective` is that loss as a function of θ;
- :mod:`~pipeline.training._adam`, :mod:`~pipeline.training._lbfgs`,
  :mod:`~pipeline.training._ssbroyden` and :mod:`~pipeline.training._levenberg_marquardt` descend;
- :mod:`~pipeline.training._train` has one after the other.
"""

from pipeline.training._train import Steps, train

__all__ = ["Steps", "train"]
