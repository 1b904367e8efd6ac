#!/bin/bash
# Trains on several nodes, and goes on by itself where its time was up.
#   sbatch examples/cluster/train.sh --config tmkd.yaml
# One task for each GPU, as Lightning wants it. Two minutes before the end SLURM sends SIGUSR1: Lightning then saves a
# checkpoint and puts the job back into the queue, where it begins with that checkpoint. Add the options of your cluster.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
exec srun tmkd fit "$@" --trainer.strategy ddp --trainer.num_nodes "$SLURM_NNODES" \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" --data.num_workers "$((SLURM_CPUS_PER_TASK - 1))"
