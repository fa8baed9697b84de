#!/usr/bin/env bash
# The search below docs/results/curse: four finalists with three seeds on 2,000 images of CIFAR-10: at most 144 epochs.
#   docs/results/curse.sh FOLDER OUT      FOLDER has CIFAR-10 as JPEG in Parquet; OUT gets the search folder
# Then `python docs/results/curse.py OUT` says what the winner's curse is with finalists and without.
set -euo pipefail
tune-jobs run cifar10 --set data.name=parquet --set "data.root=$1" --set data.max_images=2000 \
    --set data.val_fraction=0.2 --set 'architectures=[resnet8]' --set 'methods=[sam, base]' --set train.epochs=3 \
    --set train.batch_size=64 --set train.warmup_epochs=1 --set search.num_trials=12 --set search.finalists=4 \
    --set search.finalist_seeds=3 --set resources.device=cpu --out "$2"
