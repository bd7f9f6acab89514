# Sourced by the launch scripts: one torchrun agent per host, with the settings that long runs need.
#
# Settings, all optional but RENDEZVOUS with more than one host:
#   NODES             hosts (1)
#   PROCESSES         processes per host (number of GPUs, without any 1)
#   RENDEZVOUS        host:port at which the agents meet
#   JOB               name of the job, equal on all hosts
#   RESTARTS          how often processes are started again after one died (3)
#   JOIN_SECONDS      how long an agent waits for the others (1800)
#   LOGS              folder for the output of every process (OUTPUT/launch_logs)
#   PYTHON            interpreter (python)
#   PROGRAM           what to run (tools/train_net.py)
#   DRY_RUN           if not empty, every host prints the command that it would run
#
# Every process writes to $LOGS/.../<restart>/<local rank>/stdout.log and stderr.log; the first
# process of a host also to the terminal. Progress lines come from rank 0 alone. Collectives of the
# training time out after 2 hours, its backend follows the device (nccl or gloo).

# Prints the comment at the head of a script and the settings above, if the first argument asks for it.
help_if_asked() {
    local script=$1
    case ${2:-} in -h | --help) ;; *) return 0 ;; esac
    local file
    for file in "$script" "$(dirname "${BASH_SOURCE[0]}")/common.sh"; do
        sed -n -e '/^#!/d; /^#SBATCH/d; /^[^#]/q; /^$/q; s/^# \{0,1\}//p' "$file"
        echo
    done
    echo "What follows the script's name goes to the program: python tools/train_net.py --help lists it."
    exit 0
}

number_of_gpus() {
    if command -v nvidia-smi >/dev/null 2>&1; then
        nvidia-smi --list-gpus 2>/dev/null | wc -l
    else
        echo 0
    fi
}

# Replaces the shell by an agent; the arguments go to the program.
run_agent() {
    local gpus processes
    gpus=$(number_of_gpus)
    processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
    # Processes that are started again must not meet the addresses of dead ones.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    local rendezvous=(--standalone)
    if [ "${NODES:-1}" -gt 1 ]; then
        rendezvous=(
            --nnodes="$NODES"
            --rdzv-backend=c10d
            --rdzv-endpoint="$RENDEZVOUS"
            --rdzv-id="${JOB:-glip}"
            --rdzv-conf="join_timeout=${JOIN_SECONDS:-1800}"
        )
        [ -z "${LOCAL_ADDRESS:-}" ] || rendezvous+=(--local-addr="$LOCAL_ADDRESS")
    fi
    local command=(
        "${PYTHON:-python}" -m torch.distributed.run
        "${rendezvous[@]}"
        --nproc-per-node="$processes"
        --max-restarts="${RESTARTS:-3}"
        --log-dir="${LOGS:-OUTPUT/launch_logs}" --redirects=3 --tee=0:3
        "${PROGRAM:-tools/train_net.py}" "$@"
    )
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "${command[@]}"
        echo
        return
    fi
    exec "${command[@]}"
}
