#!/usr/bin/env bash
# What is to be measured on a GPU, in steps meant to take less than ten minutes each: bench/gpu.sh STEP.
# Results go to ${OUT:-docs/results/gpu}; steps 7 and 8 read the profile of step 5 (PROFILE, where it was
# moved). Needs torch, transformers and triton with CUDA; installs nothing.
# With --dry the same commands run with a tiny model on one core of a CPU: their options and paths are tried
# out, nothing is measured. Results then go to ${OUT:-runs/gpu-dry}.
set -euo pipefail
cd "$(dirname "$0")/.."
PY=${PYTHON:-python}
steps=(environment check roofline_llama roofline_qwen calibrate peer fidelity_low fidelity_high forecasts)

if [[ ${1:-} == --dry ]]; then
  shift; export OMP_NUM_THREADS=1; OUT=${OUT:-runs/gpu-dry}; DEVICE=cpu; WORK=$OUT/work; LLAMA=random:tiny-llama; QWEN=random:tiny-qwen3
  check_on=(cpu); copies=(--pages 16); roofline=(--scale 0.01)
  calibrated=(--repeats 1 --max-batched-tokens 64 --max-context 128 --max-sequences 8 --threads 1)
  peer=(--requests 3 --prompt 40 --output-tokens 8 --repeats 1 --peer-batch-tokens 256)
  load=(--workflows 4 --concurrency 3 --block-size 16 --max-batched-tokens 512 --wait-scale 0.02 --threads 1)
  fidelity=(--max-sequences 16 --repeats 1); live=(--epochs 2)
  LOW=${LOW:-600}; HIGH=${HIGH:-500}
else
  OUT=${OUT:-docs/results/gpu}; DEVICE=cuda; WORK=${WORK:-runs/gpu}; LLAMA=random:llama-8b; QWEN=random:qwen3-8b
  check_on=(cuda); copies=(); roofline=(); calibrated=(); peer=()
  load=(--workflows "${WORKFLOWS:-30}" --concurrency "${CONCURRENCY:-24}" --block-size 32)
  load+=(--max-batched-tokens 8192 --wait-scale 0.1)
  fidelity=(--max-sequences 256 --repeats 3); live=()
  LOW=${LOW:-3000}; HIGH=${HIGH:-2000}
fi
PROFILE=${PROFILE:-$OUT/llama-8b.toml}

environment() {
  if [[ $DEVICE == cuda ]]; then
    nvidia-smi | tee "$OUT/nvidia-smi.txt"
    nvidia-smi --format=csv --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,pcie.link.gen.max,pcie.link.width.max \
      | tee "$OUT/clocks.csv"
  fi
  $PY -m pbkv info | tee "$OUT/info.txt"
}
check() {
  $PY bench/gpu_check.py "${check_on[@]}" | tee "$OUT/check.txt"
  $PY bench/gpu_copies.py --device $DEVICE "${copies[@]}" -o "$OUT/copies" | tee "$OUT/copies.txt"
}
roofline() { for l in page-first layer-first; do # model, its name in results
  $PY bench/roofline.py --model $1 --device $DEVICE --layout $l "${roofline[@]}" -o "$OUT/roofline-$2-$l"; done; }
roofline_llama() { roofline $LLAMA llama-8b; }
roofline_qwen() { roofline $QWEN qwen3-8b; }
calibrate_one() {
  $PY -m pbkv calibrate --model $1 --device $DEVICE "${calibrated[@]}" -o "$OUT/$2.toml" --force \
    | tee "$OUT/$2.calibration.txt"; }
calibrate() { calibrate_one $LLAMA llama-8b; calibrate_one $QWEN qwen3-8b; }
peer() { $PY bench/generate_batch.py --model $LLAMA --device $DEVICE "${peer[@]}" -o "$OUT/peer"; }
fidelity() { # GPU blocks, folder
  [[ -f $PROFILE ]] || { echo "no profile at $PROFILE: run step 5 first, or set PROFILE" >&2; exit 2; }
  $PY bench/fidelity.py --device $DEVICE --model $LLAMA --profile "$PROFILE" "${load[@]}" "${fidelity[@]}" \
    --policies lru,lae,pbkv-he,pbkv,kvflow --gpu-blocks "$1" --work "$WORK/fidelity-$2" -o "$OUT/fidelity-$2"; }
fidelity_low() { fidelity "$LOW" low; }
fidelity_high() { fidelity "$HIGH" high; }
forecasts() { $PY bench/gpu_forecasts.py --device $DEVICE --model $LLAMA "${load[@]}" "${live[@]}" \
  --gpu-blocks "$LOW" --work "$WORK/forecasts" -o "$OUT/forecasts"; }

if [[ $# -eq 1 && $1 =~ ^[1-9]$ && $1 -le ${#steps[@]} ]]; then
  mkdir -p "$OUT"; name=${steps[$(($1 - 1))]}; began=$SECONDS
  trap 'echo "== $name: $((SECONDS - began)) s, exit $?"' EXIT
  echo "== $name"; "$name"
else
  echo "usage: bench/gpu.sh [--dry] STEP"; for i in "${!steps[@]}"; do echo "  $((i + 1)) ${steps[$i]}"; done
  [[ $# -eq 0 ]] || exit 2
fi
