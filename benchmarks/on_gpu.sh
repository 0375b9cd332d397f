#!/usr/bin/env bash
# What only a GPU can show, within eight minutes: the tests marked gpu, then the benchmarks' GPU parts.
#
#     benchmarks/on_gpu.sh [FILE]
#
# The figures go to FILE (benchmarks/gpu_figures.txt if none), each below the command that gave it.
# PYTHON names the interpreter. WHEELS names a folder of wheels that are installed first, for a
# machine without a network; what the machine has already stays as it is.
set -uo pipefail
cd "$(dirname "$0")/.."
file=${1:-benchmarks/gpu_figures.txt}
python=${PYTHON:-python}
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || exit 1
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "torch sees no GPU here: run this where nvidia-smi lists one, with a torch built for CUDA" >&2
  exit 1
fi

failed=0
measure() { # SECONDS COMMAND...: what it prints goes to the file and the terminal
  local seconds=$1
  shift
  printf '\n$ %s\n' "$*"
  timeout "$seconds" "$@" 2>&1
  local code=$?
  [ $code -eq 0 ] || { printf 'ended with code %s (124: not within %s s)\n' "$code" "$seconds"; failed=1; }
}

{
  "$python" - <<'PYTHON_END'
import platform
import torch, transformers
card = torch.cuda.get_device_properties(0)
print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB; Python {platform.python_version()}, "
      f"torch {torch.__version__}, transformers {transformers.__version__}")
PYTHON_END
  measure 120 "$python" -m pytest -q -m gpu -p no:cacheprovider -p no:benchmark tests/gpu
  measure 60 "$python" benchmarks/train.py large
  measure 220 "$python" benchmarks/ppo.py gpu ${WHEELS:+--trl-wheel "$WHEELS"}
  measure 70 "$python" benchmarks/serving.py --shape smollm --turns 2 --rounds 1 --tokens 32
} > >(tee "$file")
wait
exit $failed
