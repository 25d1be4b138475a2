#!/usr/bin/env bash
# Runs every experiment of docs/results.md, from the root of a clone, and keeps its tables in docs/results/.
#   docs/results.sh digits       # no file and no network; some minutes
#   docs/results.sh cifar10      # with data/cifar10_jpeg.zip and data/vgg16_keras_notop.h5; about two hours on 2 cores
# What is in runs/ already is not done over. Then `python docs/results.py` writes the page's tables.
set -euo pipefail
cd "$(dirname "$0")/.."

AVERAGES=block1:avg,block2:avg,block3:avg,block4:avg,block5:avg
MAXIMA=block1:max,block2:max,block3:max,block4:max

digits() {
  for name in quickstart dinov2_logistic kornblith_logistic dinov2_linear dinov2_knn layerwise big_vision_fewshot; do
    python train.py --config=configs/$name.py --workdir=runs/$name
  done
  python train.py --config=configs/dinov2_logistic.py --config.sweep.measure=log_loss --workdir=runs/logistic_by_log_loss
  python -m transfer compare --output docs/results/digits.md runs/quickstart runs/dinov2_logistic runs/logistic_by_log_loss \
    runs/kornblith_logistic runs/dinov2_linear runs/dinov2_knn runs/layerwise
  python train.py --config=configs/shots.py --workdir=runs/digits_shots
  shots digits_shots
  shots big_vision_fewshot
}

protocols() { # NAME of a file of flags
  local name=$1 flags=--flagfile=docs/results/$1.flags
  python train.py --config=configs/cifar10_vgg16.py "$flags" --config.tap=block5:avg --workdir="runs/${name}_recipe"
  for protocol in dinov2_logistic kornblith_logistic dinov2_knn; do
    python train.py --config=configs/$protocol.py "$flags" --config.tap=block5:avg --workdir="runs/${name}_$protocol"
  done
  python train.py --config=configs/dinov2_logistic.py "$flags" --config.tap=block5:avg --config.sweep.measure=log_loss \
    --workdir="runs/${name}_logistic_by_log_loss"
  python train.py --config=configs/dinov2_linear.py "$flags" --config.tap=block5:avg,block4:avg,block4:max,block3:max \
    --workdir="runs/${name}_dinov2_linear"
  python train.py --config=configs/layerwise.py "$flags" --config.tap=$AVERAGES --workdir="runs/${name}_layerwise"
  python -m transfer compare --output "docs/results/$name.md" "runs/${name}_recipe" "runs/${name}_dinov2_logistic" \
    "runs/${name}_logistic_by_log_loss" "runs/${name}_kornblith_logistic" "runs/${name}_dinov2_linear" \
    "runs/${name}_dinov2_knn" "runs/${name}_layerwise"
}

shots() { # NAME of a run
  python -m transfer shots "runs/$1" --output "docs/results/$1.md" --output "docs/results/$1.csv" --output "docs/results/$1.svg"
}

cifar10() {
  for name in vgg16_224 vgg16 slim; do
    python extract.py --config=configs/cifar10_vgg16.py --flagfile=docs/results/$name.flags --config.tap=$AVERAGES,$MAXIMA \
      --workdir=runs/${name}_features
    protocols $name
  done
  for name in vgg16 slim; do
    python train.py --config=configs/shots.py:$name --flagfile=docs/results/$name.flags --workdir=runs/${name}_shots
    shots ${name}_shots
  done
}

"$1"
