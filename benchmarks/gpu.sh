#!/usr/bin/env bash
# Every GPU figure in one command, on the day there is a GPU: beside torch.compile max-autotune in the same run, MFU,
# from uint8 to NumPy, every precision, heads; JSON with the command that made each, pictures, and the tables of docs/benchmarks.md.
#
#   pip install -e '.[plots,peers]' 'jax[cuda12]'
#   benchmarks/gpu.sh                     # about half an hour on an H100, most of it compiling
#   TOY=1 benchmarks/gpu.sh FOLDER        # a minute, on a CPU too: does everything run?
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/gpu}"
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
    models=vgg11_slim.cifar10 batches=2,4 few=2 peers='flax*' precisions=high
    quick=(--image_size=32 --rounds=2 --seconds=0.01 --no_errors)
else
    models=resnet50,vgg16,inception_v3 batches=32,64,128,256,512 few=128 peers='*' precisions='default high highest'
    quick=()
    python -c "import jax; assert jax.default_backend() == 'gpu', 'JAX sees no GPU here'"
fi

# at least 1.2 times torch.compile max-autotune at the best batch; VGG16's MFU at least 50 %; from uint8 at least 0.9
bench bfloat16 --models="$models" --dtype=bfloat16 --batch="$batches" --peers="$peers" "${quick[@]}" "${pictures[@]}"
# what each precision of float32 costs and gives: TF32, three passes, one
for precision in $precisions; do
    bench "float32_$precision" --models="$models" --batch="$few" --precision="$precision" "${quick[@]}"
done
[[ -n "${TOY:-}" ]] || bench latency --latency --models="$models" --dtype=bfloat16 --seconds=2
[[ -n "${TOY:-}" ]] || bench head --head
[[ "$out" != benchmarks/* ]] || python benchmarks/refresh.py
