#!/usr/bin/env bash
# What is to be measured on a GPU, in steps meant to take less than ten minutes each: bench/gpu.sh STEP.
# Results go to ${OUT:-docs/results/gpu}; steps 7 and 8 read the profile of step 5 (PROFILE, where it was
# moved). Needs torch, transformers and triton with CUDA; installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-docs/results/gpu}
PY=${PYTHON:-python}
PROFILE=${PROFILE:-$OUT/llama-8b.toml}
steps=(environment check roofline_llama roofline_qwen calibrate peer fidelity_low fidelity_high)

environment() {
  nvidia-smi | tee "$OUT/nvidia-smi.txt"
  nvidia-smi --format=csv --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,pcie.link.gen.max,pcie.link.width.max \
    | tee "$OUT/clocks.csv"
  $PY -m pbkv info | tee "$OUT/info.txt"
}
check() { $PY bench/gpu_check.py | tee "$OUT/check.txt"; }
roofline_llama() { for l in page-first layer-first; do
  $PY bench/roofline.py --model random:llama-8b --layout $l -o "$OUT/roofline-llama-8b-$l"; done; }
roofline_qwen() { for l in page-first layer-first; do
  $PY bench/roofline.py --model random:qwen3-8b --layout $l -o "$OUT/roofline-qwen3-8b-$l"; done; }
calibrate() { for m in llama-8b qwen3-8b; do
  $PY -m pbkv calibrate --model random:$m -o "$OUT/$m.toml" --force | tee "$OUT/$m.calibration.txt"; done; }
peer() { $PY bench/generate_batch.py --model random:llama-8b --device cuda -o "$OUT/peer"; }
fidelity() { # GPU blocks, folder
  [[ -f $PROFILE ]] || { echo "no profile at $PROFILE: run step 5 first, or set PROFILE" >&2; exit 2; }
  $PY bench/fidelity.py --device cuda --model random:llama-8b --profile "$PROFILE" --block-size 32 \
    --policies lru,lae,pbkv-he,pbkv,kvflow --workflows "${WORKFLOWS:-30}" --concurrency "${CONCURRENCY:-24}" \
    --gpu-blocks "$1" --max-batched-tokens 8192 --max-sequences 256 --wait-scale 0.1 --repeats 3 \
    --work "runs/gpu-fidelity-$2" -o "$OUT/fidelity-$2"; }
fidelity_low() { fidelity "${LOW:-3000}" low; }
fidelity_high() { fidelity "${HIGH:-2000}" high; }

if [[ $# -eq 1 && $1 =~ ^[1-9]$ && $1 -le ${#steps[@]} ]]; then
  mkdir -p "$OUT"; name=${steps[$(($1 - 1))]}; began=$SECONDS
  trap 'echo "== $name: $((SECONDS - began)) s, exit $?"' EXIT
  echo "== $name"; "$name"
else
  echo "usage: bench/gpu.sh STEP"; for i in "${!steps[@]}"; do echo "  $((i + 1)) ${steps[$i]}"; done
  [[ $# -eq 0 ]] || exit 2
fi
