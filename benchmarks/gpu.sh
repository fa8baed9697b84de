#!/usr/bin/env bash
# Everything that only a GPU can show, most valuable step first. Each step has its limit in seconds, a step that has
# ended is not run again, and the whole stops after so many seconds. Results go to benchmarks/results/*-cuda.*.
# Needs no installation; steps that need Ray, or data, are left out where these are missing.
#   benchmarks/gpu.sh [--seconds 540] [--data FOLDER with CIFAR-10 as Parquet] [--device cpu, to rehearse] [STEP ...]
# RESULTS is another folder for the results, DONE_FILE another file for the names of steps that have ended.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}" seconds=540 data="" device=cuda wanted=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) seconds="$2"; shift 2 ;;
        --data) data="$2"; shift 2 ;;
        --device) device="$2"; shift 2 ;;
        *) wanted+=("$1"); shift ;;
    esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
results="${RESULTS:-benchmarks/results}"
done_file="${DONE_FILE:-$results/.gpu-steps-$device}"
begin=$SECONDS
mkdir -p "$results" && touch "$done_file"

# step NAME LIMIT COMMAND...: runs it if it is wanted, has not ended before and there is time; keeps what it prints.
step() {
    local name="$1" limit="$2" left=$((seconds - (SECONDS - begin))) code
    shift 2
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
    if grep -qx "$name" "$done_file"; then echo "== $name: done before"; return; fi
    if [ "$left" -lt 20 ]; then echo "== $name: no time left"; return; fi
    [ "$limit" -le "$left" ] || limit="$left"
    echo "== $name: at most $limit s"
    timeout --signal=INT --kill-after=10 "$limit" "$@" 2>&1 | tee "$results/$name-$device.txt" | tail -n 40
    code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - begin)) s in all"
    if [ "$code" -eq 0 ]; then echo "$name" >>"$done_file"; fi
}
has() { "$python" -c "import $1" 2>/dev/null; }

# On the CPU small cases, which show only that the step runs, stops and is resumed.
small=() stepped=() repeated=() loaded=() trained=(--models resnet20 resnet56 vgg16_bn vit_7_8_8_384 --seconds 0.3) packed=(--seconds 2)
searched=(--set search.num_trials=8 --set train.epochs=10)
evidence=(--set search.num_trials=8 --set train.epochs=30 --set 'architectures=[resnet20]')
if [ "$device" = cpu ]; then
    # Without the profile's step `compile`, which takes a minute on a CPU.
    small=(--models resnet8 --repeats 1 --steps floor roof kernels deterministic casts batch) stepped=(--models resnet20 --repeats 1 --batch-size 8)
    repeated=(--repeats 1) loaded=(--images 1000 --repeats 1 --model resnet8)
    trained=(--device cpu --models resnet8 --repeats 1 --seconds 0 --loader)
    packed=(--device cpu --model resnet8 --together 1 2 --seconds 0.3)
    searched=(--set search.num_trials=1 --set train.epochs=1 --set train.warmup_epochs=0 --set data.max_images=200
        --set train.batch_size=32 --set 'architectures=[resnet8]' --set 'methods=[base]')
    evidence=("${searched[@]}")
fi

step tests 150 "$python" -m pytest -q -m gpu -p no:benchmark tests/optim tests/data tests/training
step profile 180 "$python" benchmarks/gpu_profile.py --device "$device" --seconds 0.3 "${small[@]}" \
    --out "$results/gpu_profile-$device.json"
step training 150 "$python" benchmarks/training.py "${trained[@]}" --out "$results/training-$device.json"
step packing 120 "$python" benchmarks/packing.py "${packed[@]}" --out "$results/packing-$device.json"
if has ray && [ -n "$data" ]; then
    cifar10=(cifar10 --set data.name=parquet --set "data.root=$data")
    # A search that was cut off goes on in its folder.
    step search 300 "$python" -m tune_jobs run "${cifar10[@]}" "${searched[@]}" --out "$results/search-$device"
    step evidence 3600 "$python" -m tune_jobs run "${cifar10[@]}" "${evidence[@]}" --out "$results/evidence-$device"
    step confirmation 3600 "$python" -m tune_jobs confirm "$results/evidence-$device"
fi
step optimizer_step 120 "$python" benchmarks/optimizer_step.py --device "$device" "${stepped[@]}" \
    --out "$results/optimizer_step-$device.json"
step augmentation 60 "$python" benchmarks/augmentation.py --device "$device" "${repeated[@]}" \
    --out "$results/augmentation-$device.json"
step loading 60 "$python" benchmarks/loading.py --device "$device" "${loaded[@]}" --out "$results/loading-$device.json"
