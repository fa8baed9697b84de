#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: the tests marked gpu, the benchmarks on CUDA, how trials share it.
# Results go to benchmarks/results/*-cuda.json. Needs no installation; Ray is needed for the last part alone.
#   benchmarks/gpu.sh [FOLDER with CIFAR-10 as Parquet, for the last part]
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
"$python" -m pytest -m gpu -p no:benchmark tests/optim tests/data tests/training
"$python" benchmarks/training.py --models resnet20 vgg16_bn vit_7_8_8_384 --seconds 0.3
"$python" benchmarks/optimizer_step.py --device cuda
"$python" benchmarks/augmentation.py --device cuda
"$python" benchmarks/loading.py --device cuda
if "$python" -c 'import ray' 2>/dev/null && [ $# -ge 1 ]; then
    "$python" benchmarks/packing.py cifar10 --set data.name=parquet --set "data.root=$1"
fi
