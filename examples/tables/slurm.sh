#!/bin/bash
# One task of a SLURM array for each cell of a grid, from the root of the clone:
#   GRID=examples/tables/digits.yaml
#   python examples/tables/run.py $GRID --cells 'teachers/*'   # first, else every student waits for its teacher
#   sbatch --array=0-$(($(python examples/tables/run.py $GRID --dry_run | wc -l) - 1)) examples/tables/slurm.sh $GRID
# Add the options of your cluster below. A task that was killed resumes when the array is submitted again.
#SBATCH --gpus=1
set -eu
CELL=$(python examples/tables/run.py "$1" --dry_run | sed -n "$((SLURM_ARRAY_TASK_ID + 1))s/ .*//p")
exec python examples/tables/run.py "$@" --cells "$CELL"
