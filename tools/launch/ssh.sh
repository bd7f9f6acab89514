#!/usr/bin/env bash
# Pre-training on hosts that reach each other by name and this one by ssh, without a job system.
# Repository, data and environment lie at the same place on all of them.
#
#   HOSTS="node0 node1" PROCESSES=16 tools/launch/ssh.sh \
#       --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml \
#       --use-tensorboard --override_output_dir OUTPUT/glip_t
#   HOSTS="node0 node1 node2 node3" PROCESSES=16 tools/launch/ssh.sh \
#       --config-file configs/pretrain/glip_Swin_L.yaml \
#       --use-tensorboard --override_output_dir OUTPUT/glip_l
#
# Those are the published settings: GLIP-T on 2 x 16 GPUs, GLIP-L on 4 x 16, a batch of 64 each.
# Settings beside those of common.sh: PORT of the first host (29400), SSH (ssh). Ctrl-C reaches all
# hosts: the run saves itself and the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tools/launch/common.sh
help_if_asked tools/launch/ssh.sh "$@"
if [ -z "${HOSTS:-}" ]; then
    echo 'error: name the hosts: HOSTS="node0 node1" tools/launch/ssh.sh ...' >&2
    exit 2
fi
read -r -a hosts <<<"$HOSTS"
logs=${LOGS:-OUTPUT/launch_logs/$(date +%Y%m%d_%H%M%S)}
mkdir -p "$logs"

agents=()
stop() {
    for agent in "${agents[@]}"; do kill -TERM "$agent" 2>/dev/null || true; done
}
trap stop INT TERM

for number in "${!hosts[@]}"; do
    settings=(
        "NODES=${#hosts[@]}" "RENDEZVOUS=${hosts[0]}:${PORT:-29400}" "JOB=${JOB:-glip}"
        "LOGS=$logs/host$number"
    )
    for name in PROCESSES RESTARTS JOIN_SECONDS PYTHON PROGRAM DRY_RUN LOCAL_ADDRESS OMP_NUM_THREADS; do
        [ -z "${!name:-}" ] || settings+=("$name=${!name}")
    done
    # Quoted for the remote shell; the process ends with the connection.
    printf -v command '%q ' env "${settings[@]}" \
        bash -c '. tools/launch/common.sh; run_agent "$@"' launch "$@"
    ${SSH:-ssh -tt -o BatchMode=yes} "${hosts[$number]}" "cd $(printf %q "$PWD") && exec $command" \
        </dev/null > >(sed -u "s/^/[host$number] /" | tee "$logs/host$number.log") 2>&1 &
    agents+=($!)
done
echo "${#hosts[@]} hosts meet at ${hosts[0]}:${PORT:-29400}, their output is in $logs"

status=0
for agent in "${agents[@]}"; do
    # A trapped signal ends a wait early: wait again until the agent is gone.
    while kill -0 "$agent" 2>/dev/null; do wait "$agent" && break || result=$?; done
    wait "$agent" 2>/dev/null || status=${result:-$?}
done
exit "$status"
