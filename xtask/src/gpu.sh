#!/bin/sh
# Runs the packed tests and the program on a graphics card; made by `cargo xtask gpu`.
#
# Usage, in the root of the repository: sh DIR/run.sh RESULTS
# Needs the card's driver, xz, and nothing to compile with; with PyTorch, transformers and PEFT it measures them, too.
# Each step has its own time limit, eight minutes in all; what a step said is in RESULTS, and the table at the end says
# how each ended. The measurements and the cases may end at their limit: what they had found until then counts.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?where the results go}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$PWD
export HYPERINF_TESTS="$root/tests" HYPERINF_TEST_DEVICE=@DEVICE@ HYPERINF_BENCH_DEVICE=@DEVICE@ HYPERINF_CACHE="$work/cache"
test -d "$HYPERINF_TESTS/fixtures" || { echo "run it in the root of the repository"; exit 2; }
for name in integration hyperinf card; do
    xz -dc "$here/$name.xz" > "$work/$name" && chmod +x "$work/$name" || exit 3
done
failed=0

# step NAME SECONDS COMMAND...
step() {
    name=$1 limit=$2
    shift 2
    start=$(date +%s)
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1
    rc=$?
    ended="exit code $rc"
    case $name-$rc in
        *-0) ;;
        card*-124 | cases-124) ended="ended at its limit" ;;
        *) failed=1 ;;
    esac
    echo "$name: $ended, $(($(date +%s) - start)) s" | tee -a "$out/steps.txt"
}

: > "$out/steps.txt"
{ date -u; nvidia-smi || true; uname -a; } > "$out/machine.txt" 2>&1
cd "$work" || exit 3
# The first use of the card: its check, and a demo with every method.
step demo 90 "$work/hyperinf" demo --device @DEVICE@ --out "$work/demo"
step demo-processor 25 "$work/hyperinf" demo --device flex --out "$work/demo-processor"
step goldens 50 "$work/integration" goldens:: --test-threads 4
# Products, copies, scores, gradients of adapters, inverses, each next to what the card can do.
step card 150 "$work/card"
if python3 -c 'import torch, transformers, peft; assert torch.cuda.is_available()' 2> /dev/null; then
    step card-pytorch 50 python3 "$root/benches/card.py"
else
    echo "card-pytorch: not run, without PyTorch, transformers and PEFT for a card" | tee -a "$out/steps.txt"
fi
step cases 60 "$work/integration" @CASES@ --skip goldens:: --test-threads 8
for name in score-processor score; do
    device=@DEVICE@ limit=40
    test $name = score || device=flex limit=10
    step $name $limit "$work/hyperinf" score --train-gradients "$HYPERINF_TESTS/fixtures/lora_tiny/train.safetensors" \
        --query-gradients "$HYPERINF_TESTS/fixtures/lora_tiny/query.safetensors" --method hyperinf --device $device \
        --output "$out/$name.csv"
done
cat "$out/steps.txt"
exit $failed
