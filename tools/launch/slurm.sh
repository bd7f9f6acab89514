#!/usr/bin/env bash
# Pre-training under SLURM. The defaults are the published settings of GLIP-T: 2 hosts of 16 GPUs, a
# batch of 64 pictures (SOLVER.IMS_PER_BATCH in the configuration). Options of sbatch win over the
# lines below; everything after the script's name goes to tools/train_net.py.
#
#   sbatch tools/launch/slurm.sh --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml \
#       --use-tensorboard --override_output_dir OUTPUT/glip_t
#   sbatch --nodes=4 tools/launch/slurm.sh --config-file configs/pretrain/glip_Swin_L.yaml \
#       --use-tensorboard --override_output_dir OUTPUT/glip_l
#
# Fewer GPUs: SOLVER.ACCUMULATION_STEPS keeps the batch. Too little memory: SOLVER.PARALLEL fsdp.
# Before the time is over SLURM sends SIGTERM and the run saves itself; the same command goes on. With
# REQUEUE_UNTIL=OUTPUT/glip_t/model_final.pth the job queues again by itself until that file is there.
#
#SBATCH --job-name=glip
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=16
#SBATCH --cpus-per-task=96
#SBATCH --exclusive
#SBATCH --time=48:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=OUTPUT/slurm_%x_%j.log
set -euo pipefail
# sbatch runs a copy of this file: the repository is where it was called.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/../..}"
. tools/launch/common.sh
help_if_asked tools/launch/slurm.sh "$@"
if [ -z "${SLURM_JOB_NODELIST:-}" ]; then
    echo "error: not inside a SLURM job: start this with sbatch tools/launch/slurm.sh ..." >&2
    exit 2
fi

# All of them are read: whoever writes into a pipe that "head" has closed fails the script.
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts[0]:?scontrol names no host}
export NODES=$SLURM_NNODES
export RENDEZVOUS=$first:$((20000 + SLURM_JOB_ID % 20000))
export JOB=glip_$SLURM_JOB_ID
export LOGS=${LOGS:-OUTPUT/launch_logs/$JOB}
echo "$NODES hosts meet at $RENDEZVOUS, output of the processes in $LOGS"

status=0
srun --kill-on-bad-exit=1 bash -c \
    'LOGS=$LOGS/$(hostname); . tools/launch/common.sh; run_agent "$@"' launch "$@" || status=$?
# Exit status 0 means finished, or stopped by a signal with everything saved.
if [ "$status" -eq 0 ] && [ -n "${REQUEUE_UNTIL:-}" ] && [ ! -e "$REQUEUE_UNTIL" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
