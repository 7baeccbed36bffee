"""The program carried to the points of a term, and the term expanded around θ there.

- :mod:`~hessian_tasks.layered.expand._streams` and
  :mod:`~hessian_tasks.layered.expand._composition` say how streams pass through a program,
  :mod:`~hessian_tasks.layered.expand.network` and :mod:`~hessian_tasks.layered.expand._linearise`
  carry them to points;
- :mod:`~hessian_tasks.layered.expand._sight` says which streams a term depends on,
  :mod:`~hessian_tasks.layered.expand.expansion` expands it in the probes,
  :mod:`~hessian_tasks.layered.expand._border` in the weights that it reads itself, and
  :mod:`~hessian_tasks.layered.expand.terms` puts these together;
- :mod:`~hessian_tasks.layered.expand.rows` has rows of Jacobians in factors.

Imports the network's program and the readings of terms.
"""

__all__: list[str] = []
