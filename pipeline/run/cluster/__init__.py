"""Runs on Dask workers: how they start, whether they fit, what they do, who gives them work.

- :mod:`~pipeline.run.cluster.connect`: from a profile to a Dask client;
- :mod:`~pipeline.run.cluster.given`: from a client or cluster that the user has;
- :mod:`~pipeline.run.cluster._start`: workers that are started for a run, with
  :mod:`~pipeline.run.cluster._queues` for queueing systems, :mod:`~pipeline.run.cluster._cuda` for
  the GPUs of a machine and :mod:`~pipeline.run.cluster.kubernetes` for pods, and
  :mod:`~pipeline.run.cluster._certificates` for what other machines need to encrypt;
- :mod:`~pipeline.run.cluster.workers`: whether the workers fit, before the first block row;
- :mod:`~pipeline.run.cluster._job`: what a worker does;
- :mod:`~pipeline.run.cluster.products`: what it does when a store is verified;
- :mod:`~pipeline.run.cluster.sending`: how the problem reaches it;
- :mod:`~pipeline.run.cluster._schedule`: which block row when, and how often;
- :mod:`~pipeline.run.cluster.submit`: whole runs, the client included, as jobs of a queue.

Data never passes through the scheduler: a worker reads the frozen inputs from the store, writes its
tiles there, and returns the block row's record.
"""

__all__: list[str] = []
