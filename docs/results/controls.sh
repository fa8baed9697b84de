#!/usr/bin/env bash
# The searches below docs/results/controls: the control presets on 2,000 images of CIFAR-10, about 35 minutes on two cores.
#   docs/results/controls.sh FOLDER OUT      FOLDER has CIFAR-10 as JPEG in Parquet; OUT gets a search folder for each
set -euo pipefail
folder="$1" out="$2"
run() {
    tune-jobs run "$@" --set data.name=parquet --set "data.root=$folder" --set data.max_images=2000 \
        --set data.val_fraction=0.2 --set train.epochs=4 --set train.batch_size=64 --set train.warmup_epochs=1 \
        --set resources.device=cpu --out "$out/$1"
}
run mask_controls --set 'architectures=[resnet8, vit_tiny]'
run radius_controls --set 'architectures=[vit_tiny]'
run qp_ablation --set 'architectures=[vit_tiny]'
run transfer --set 'architectures=[resnet8, vit_tiny]' --set search.num_trials=16
