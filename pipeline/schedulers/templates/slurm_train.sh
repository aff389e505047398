#!/bin/bash
#SBATCH --job-name=ocuseg-train --nodes={{ nodes }} --ntasks-per-node=1{% if gpus %} --gpus-per-node={{ gpus }}{% endif %} --cpus-per-task={{ cores }} --mem={{ memory }}
#SBATCH --time={{ minutes }} --requeue --open-mode=append --signal=B:USR1@{{ warn_s }} --output=ocuseg-train-%j.log
# ocuseg train on Slurm, a process for each of {{ nodes }} x {{ gpus }} GPUs. Submit: sbatch {{ file | sh }}
set -euo pipefail
python={{ python | sh }}  # of the environment that ocuseg is installed in, at the same path on each node
config={{ config | sh }} root={{ root | sh }}
run={{ run | sh }}  # on a disk that all nodes share; a run that is there already goes on from its newest checkpoint
export OCUSEG_SITE_KEY={{ site_key | sh }}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else processes that begin again look for those that are gone (torch 2.14)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)  # where the processes meet
# Shortly before the wall time the job is queued again; Slurm's SIGTERM then has every process save its state.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
# --max-restarts: a process that dies takes the others with it, and all begin again at the newest checkpoint.
srun "$python" -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={{ gpus or 1 }} --max-restarts={{ retries }} \
  --rdzv-backend=c10d --rdzv-endpoint="$head:{{ port }}" --rdzv-id="$SLURM_JOB_ID" \
  -m pipeline train "$config" --root "$root" --run-dir "$run" & wait $! || wait $!
