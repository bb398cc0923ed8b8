#!/usr/bin/env bash
# Training on a SLURM cluster: sbatch recipes/slurm.sh CONF DATA EXP [key.sub=value ...]
#
# Two machines with four GPUs each; change the lines below. A minute before its time is over, and when others are preferred,
# the job is told to stop: it saves, is put back into the queue, and goes on from there.
#
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
config=$1 data=$2 exp=$3
shift 3
resume=
[ ! -f "$exp/config.yaml" ] || resume=--resume

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun python3 -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-4}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    -m spkver train "$config" --data "$data" --exp "$exp" $resume "$@" &
job=$! told=
trap 'told=yes; kill -TERM "$job"' TERM
wait "$job"
status=$?
if [ -n "$told" ]; then
    wait "$job" # the first wait ended with the signal, this one when the state is saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
