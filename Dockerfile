# The scripts of this repository in an image: docker build --build-arg PLATFORM=cuda12 --tag transfer .
# PLATFORM: cpu, cuda12 (the GPU's driver is the machine's) or tpu
#
# The tag is exact; to have the very same bytes, too, add what
# `docker buildx imagetools inspect python:3.12.13-slim-trixie` calls its digest: python:3.12.13-slim-trixie@sha256:…
FROM python:3.12.13-slim-trixie

ARG PLATFORM=cpu

# runs/NAME, the default of --workdir, is a folder of the volume, which the user may write
RUN useradd --create-home --uid 1000 transfer && mkdir /app /workdir && chown transfer /workdir && ln -s /workdir /app/runs
WORKDIR /app

# What changes rarely comes first: the libraries, from the list in setup.cfg and the version that it reads, each in the
# version of requirements.lock, whose first lines say how it is made
COPY setup.py setup.cfg pyproject.toml requirements.lock LICENSE README.md ./
COPY transfer/runtime/distribution.py transfer/runtime/
RUN mkdir configs && touch transfer/__init__.py \
    && case "$PLATFORM" in \
        cpu) jax="jax" ;; \
        cuda12 | tpu) jax="jax[$PLATFORM]" ;; \
        *) echo "PLATFORM=$PLATFORM is not one of cpu, cuda12, tpu" >&2 && exit 2 ;; \
    esac \
    && pip install --no-cache-dir --constraint requirements.lock "$jax" ".[gs]"

COPY transfer transfer
COPY configs configs
COPY train.py extract.py ./
RUN pip install --no-cache-dir --no-deps .

USER 1000
# mount something over it, or name a --workdir on gs://: what lies here goes with the container
VOLUME /workdir
ENTRYPOINT ["python"]
CMD ["train.py", "--help"]
