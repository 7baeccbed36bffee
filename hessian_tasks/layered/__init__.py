"""The ``layered`` engine: exact block rows from per-point tangents at the layers.

Weights enter a network linearly, Z = A W, and everything else acts on each neuron alone.
With a probe E_l added to every Z_l, all second derivatives of the loss follow from those
with respect to the probes, point by point:

    ∂²L / ∂W_l[i,j] ∂W_m[k,p] = Σ_n Σ_st A_l[n,s,i] · ( ∂G_m[n,t,p]/∂E_l[n,s,j] · A_m[n,t,k]
                                                    + G_m[n,t,p] · ∂A_m[n,t,k]/∂E_l[n,s,j] )

where A_l is the input of layer l, G_m = ∂L/∂E_m, and s, t number the *streams*: the network's
value and the derivatives with respect to the coordinates that the residual needs. So a few
tangents per neuron and point replace one Hessian-vector product per parameter, and nearly
all the work is in large matrix products.

The modules, in the order of the computation:

- :mod:`~hessian_tasks.layered.reader` reads the network from its TensorFlow graph as a
  :mod:`~hessian_tasks.layered.program`;
- :mod:`~hessian_tasks.layered.streams` and :mod:`~hessian_tasks.layered.composition` say how
  streams pass through it, :mod:`~hessian_tasks.layered.network` and
  :mod:`~hessian_tasks.layered.linearise` carry them to the points of a term;
- :mod:`~hessian_tasks.layered.sight` says which streams a term depends on, from what
  :mod:`hessian_tasks.reading` found in its code, :mod:`~hessian_tasks.layered.expansion` expands it
  in the probes, :mod:`~hessian_tasks.layered.border` in the weights that it reads itself, and
  :mod:`~hessian_tasks.layered.terms` puts these together;
- :mod:`~hessian_tasks.layered.tangents` says how tangents follow from each other, and
  :mod:`~hessian_tasks.layered.buffered` computes them,
  :mod:`~hessian_tasks.layered.pairs` finds which of them are needed,
  :mod:`~hessian_tasks.layered.contract` says which products make up the entries,
  :mod:`~hessian_tasks.layered.probe` and :mod:`~hessian_tasks.layered.products` do them;
- :mod:`~hessian_tasks.layered.traced` and :mod:`~hessian_tasks.layered.compiled` do the same on a
  GPU;
- :mod:`~hessian_tasks.layered.engine` cuts block rows, and
  :mod:`~hessian_tasks.layered.gauss_newton` takes the same network for first derivatives alone.
"""

__all__: list[str] = []
