#!/usr/bin/env bash
# Two hosts, simulated on this machine: two torchrun agents that know of each other only by the
# address at which they meet. For trying a launch before paying for one; everything but the network
# is as with ssh.sh, whose settings it takes (PROCESSES are those of each "host").
#
#   PROCESSES=1 tools/launch/two_hosts.sh --config-file configs/raccoon/small.yaml \
#       OUTPUT_DIR OUTPUT/two_hosts MODEL.DEVICE cpu
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
. "$folder/common.sh"
help_if_asked "$folder/two_hosts.sh" "$@"
export HOSTS="127.0.0.1 127.0.0.1"
export LOCAL_ADDRESS=127.0.0.1
export PROCESSES=${PROCESSES:-1}
# In the place of ssh: drop the host and run the command here.
export SSH="$folder/here.sh"
exec "$folder/ssh.sh" "$@"
