#!/usr/bin/env bash
# The whole study, from photographs to committed scores: results/study/measure.sh DATA [IMAGES]
# DATA is a data spec of the photographs; IMAGES how many for the large network (all unless told).
# Each command goes on where it was interrupted. On a GPU add --device cuda to the runs.
set -euo pipefail
data=$1 images=${2:-1000} runs=runs/study here=$(dirname "$0")
mkdir -p "$runs"

learn() { # name, flags
  [ -f "$runs/$1.safetensors" ] ||
    steadymap train "${@:2}" --data "$data" --output "$runs/$1.safetensors"
}
measure() { # name, model, images of the run, of signs, of steps
  local with=(--model "$2" --weights "$runs/$1.safetensors" --data "$data" --no-report)
  steadymap run study "${with[@]}" --limit "$3" --output "$runs/run-$1"
  steadymap run --config "$here/signs.yaml" "${with[@]}" --limit "$4" --output "$runs/signs-$1"
  steadymap run --config "$here/steps.yaml" "${with[@]}" --limit "$5" --output "$runs/steps-$1"
}

learn rps --recipe "$here/rps.yaml"
measure rps rps "$images" 30 4
for seed in 0 1 2 3 4; do
  learn "compact-$seed" --recipe "$here/compact.yaml" --seed "$seed"
  measure "compact-$seed" compact 1000 30 30
done
python "$here/collect.py" "$runs" "$data"
python "$here/remake.py"
