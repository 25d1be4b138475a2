#!/usr/bin/env bash
# Every CPU figure of docs/benchmarks.md: JSON with the command that made it, pictures, and that page's tables.
#
#   pip install -e '.[plots,peers]'
#   benchmarks/cpu.sh                     # about 40 minutes on two cores; leave the machine alone meanwhile
#   TOY=1 benchmarks/cpu.sh FOLDER        # a minute: does everything run?
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/cpu}"
mkdir -p "$out"
pictures=(--plot="$out/batch.png" --plot="$out/batch.svg")

# NAME FLAGS…
bench() {
    local name="$1"
    shift
    echo "== $name" >&2
    python -m transfer bench "$@" --output="$out/$name.json"
}

if [[ -n "${TOY:-}" ]]; then
    bench 32px --models=vgg11_slim.cifar10 --image_size=32 --batch=2,4 --rounds=2 --seconds=0.01 --peers='flax*'
    bench latency --latency --models=vgg11_slim.cifar10 --rounds=1 --seconds=0.01
    bench batch --models=vgg11_slim.cifar10 --dtype=float32,bfloat16 --batch=1,2,4 --rounds=1 --seconds=0.01 --no_errors "${pictures[@]}"
else
    bench 32px --models=vgg16,resnet50 --image_size=32 --batch=64 --peers
    bench vgg16_224px --models=vgg16 --batch=8 --peers
    bench resnet50_224px --models=resnet50 --batch=16 --peers
    bench inception_v3_299px --models=inception_v3 --batch=8 --peers
    bench head --head
    bench latency --latency --models=vgg16,resnet50,inception_v3 --seconds=2
    bench batch --models=vgg16,resnet50,inception_v3 --batch=1,2,4,8,16,32 --rounds=3 --no_errors "${pictures[@]}"
fi
[[ "$out" != benchmarks/* ]] || python benchmarks/refresh.py
