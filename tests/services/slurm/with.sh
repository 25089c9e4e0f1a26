#!/usr/bin/env bash
# Runs a command with a Slurm cluster: the one that answers here already, else the project's own,
# which is brought up for it and taken down after it. Its exit code is the command's.
#
#   with.sh COMMAND [ARGUMENT...]
#
# Bringing one up needs root, or sudo; see up.sh.
set -uo pipefail
place=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'slurm: %s\n' "$*" >&2; }
answers() { command -v sbatch >/dev/null && timeout 20 scontrol ping >/dev/null 2>&1; }
as_root() {
  local sudo=(sudo --preserve-env=OUTLAST_TEST_SLURM,OUTLAST_TEST_SLURM_PORT)
  [ "$(id -u)" != 0 ] || sudo=()
  "${sudo[@]}" "$@"
}

without=(-u OUTLAST_TEST_SLURM -u OUTLAST_TEST_SLURM_PORT) # no settings of the command's
folder=${OUTLAST_TEST_SLURM:-$place/../../../.cache/slurm}
# The project's own may run, without being named.
if [ -z "${SLURM_CONF:-}" ] && [ -e "$folder/slurm.conf" ] && SLURM_CONF=$folder/slurm.conf answers; then
  export SLURM_CONF=$folder/slurm.conf
fi
if answers; then
  say "using the cluster that answers${SLURM_CONF:+ ($SLURM_CONF)}"
  exec env "${without[@]}" "$@"
fi

down() {
  say "taking the cluster down"
  as_root bash "$place/down.sh" || say "some of it may be left: see $folder"
}
trap down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
say "bringing up a cluster of three nodes on this machine"
started=$(as_root bash "$place/up.sh") || exit
export "${started?}"
say "it is up ($SLURM_CONF)"
env "${without[@]}" "$@"
