# A container with the command hessian, for the CPU:
#   docker build --tag hessian-pipeline .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" hessian-pipeline \
#     hessian run poisson --store h.zarr
# With --build-arg EXTRAS=clusters,kubernetes,s3,gpu it has CUDA, and wants docker run --gpus all.

FROM python:3.11-slim AS build
RUN pip install --no-cache-dir build
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY hessian_tasks hessian_tasks
COPY pipeline pipeline
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim
ARG EXTRAS=clusters,kubernetes,s3
COPY requirements.lock /tmp/
COPY --from=build /wheels /tmp/wheels
# Exact versions, of what is needed to run alone.
RUN set -e; wheel="$(ls /tmp/wheels/*.whl)"; \
    pip install --no-cache-dir --constraint /tmp/requirements.lock "${wheel}[${EXTRAS}]"; \
    rm -r /tmp/wheels /tmp/requirements.lock
RUN useradd --create-home --uid 1000 hessian
USER hessian
# Whoever the user is, and nowhere that others fill: notes of which problem files were named.
ENV XDG_STATE_HOME=/tmp/state MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
# No entry point: the pods of a Kubernetes profile start dask-worker in this image.
CMD ["hessian", "--help"]
