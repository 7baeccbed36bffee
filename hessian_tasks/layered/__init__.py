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

The rooms, in the order of the computation; each imports those before it:

- :mod:`~hessian_tasks.layered.read` reads the network from its TensorFlow graph as a program;
- :mod:`~hessian_tasks.layered.expand` carries streams through it to the points of a term, and
  expands the term in the probes, from what :mod:`hessian_tasks.reading` found in its code;
- :mod:`~hessian_tasks.layered.multiply` does the products that make up the entries;
- :mod:`~hessian_tasks.layered.xla` does the same on a GPU;
- :mod:`~hessian_tasks.layered.engine` cuts block rows, and
  :mod:`~hessian_tasks.layered.gauss_newton` takes the same network for first derivatives alone;
- :mod:`~hessian_tasks.layered.kfac` makes Kronecker factors of these, which
  :mod:`~hessian_tasks.layered.kronecker` keeps.
"""

__all__: list[str] = []
