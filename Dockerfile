# The scripts of this repository in an image: docker build --build-arg PLATFORM=cuda12 --tag transfer .
# PLATFORM: cpu, cuda12 (the GPU's driver is the machine's) or tpu
FROM python:3.12-slim

ARG PLATFORM=cpu

RUN useradd --create-home --uid 1000 transfer && mkdir /workdir && chown transfer /workdir
WORKDIR /app

# What changes rarely comes first: the libraries, from the list in setup.cfg and the version that it reads
COPY setup.py setup.cfg pyproject.toml LICENSE README.md ./
COPY transfer/runtime/distribution.py transfer/runtime/
RUN mkdir configs && touch transfer/__init__.py \
    && case "$PLATFORM" in \
        cpu) jax="jax" ;; \
        cuda12 | tpu) jax="jax[$PLATFORM]" ;; \
        *) echo "PLATFORM=$PLATFORM is not one of cpu, cuda12, tpu" >&2 && exit 2 ;; \
    esac \
    && pip install --no-cache-dir "$jax" .

COPY transfer transfer
COPY configs configs
COPY train.py extract.py ./
RUN pip install --no-cache-dir --no-deps .

USER 1000
# runs/NAME, the default of --workdir, is no place for results in a container; mount a volume, or name gs://
VOLUME /workdir
ENTRYPOINT ["python"]
CMD ["train.py", "--help"]
