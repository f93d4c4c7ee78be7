#!/usr/bin/env bash
# What is to be measured on a GPU, in steps of less than ten minutes each: bench/gpu.sh STEP. Results go to
# ${OUT:-docs/results/gpu}. Needs torch, transformers and triton with CUDA; installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-docs/results/gpu}
PY=${PYTHON:-python}
steps=(environment check roofline_llama roofline_qwen calibrate fidelity_low fidelity_high peer)

environment() { nvidia-smi | tee "$OUT/nvidia-smi.txt"; $PY -m pbkv info | tee "$OUT/info.txt"; }
check() { $PY bench/gpu_check.py | tee "$OUT/check.txt"; }
roofline_llama() { for l in page-first layer-first; do
  $PY bench/roofline.py --model random:llama-8b --layout $l -o "$OUT/roofline-llama-8b-$l"; done; }
roofline_qwen() { $PY bench/roofline.py --model random:qwen3-8b -o "$OUT/roofline-qwen3-8b"; }
calibrate() { for m in llama-8b qwen3-8b; do
  $PY -m pbkv calibrate --model random:$m -o "$OUT/$m.toml" --force | tee "$OUT/$m.calibration.txt"; done; }
fidelity() { # GPU blocks, folder
  $PY bench/fidelity.py --device cuda --model random:llama-8b --profile "$OUT/llama-8b.toml" --block-size 32 \
    --policies lru,lae,pbkv-he,pbkv,kvflow --workflows "${WORKFLOWS:-60}" --concurrency "${CONCURRENCY:-24}" \
    --gpu-blocks "$1" --max-batched-tokens 8192 --max-sequences 256 --wait-scale 0.1 --repeats 3 \
    --work "runs/gpu-fidelity-$2" -o "$OUT/fidelity-$2"; }
fidelity_low() { fidelity "${LOW:-3000}" low; }
fidelity_high() { fidelity "${HIGH:-2000}" high; }
peer() { $PY bench/generate_batch.py --model random:llama-8b --device cuda -o "$OUT/peer"; }

if [[ ${1:-} =~ ^[1-9]$ && $1 -le ${#steps[@]} ]]; then
  mkdir -p "$OUT"; name=${steps[$(($1 - 1))]}; began=$SECONDS
  echo "== $name"; "$name"; echo "== $name: $((SECONDS - began)) s"
else
  echo "usage: bench/gpu.sh STEP"; for i in "${!steps[@]}"; do echo "  $((i + 1)) ${steps[$i]}"; done
fi
