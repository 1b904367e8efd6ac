#!/bin/bash
# Fills a teacher cache on several machines: each task of the array a part of it.
#   sbatch --array=1-8 examples/cluster/fill_cache.sh --config tmkd.yaml --config cache.yaml
# The cache's directory must be on a file system that all of them share. Add the options of your cluster below; a task
# that was killed is submitted again, and leaves out what is there.
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
set -eu
exec tmkd cache fill "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX"
