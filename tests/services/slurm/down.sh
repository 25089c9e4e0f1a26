#!/usr/bin/env bash
# Ends the cluster that up.sh has started, and nothing else: each daemon is found by its pid file
# and recognised by its name and environment.
#
#   down.sh [--wipe] [FOLDER]      --wipe removes the folder too; the packages stay
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

wipe=no
if [ "${1:-}" = --wipe ]; then
  wipe=yes
  shift
fi
use_folder "${1:-${OUTLAST_TEST_SLURM:-$here/.cache/slurm}}"

# end PIDFILE NAME SECONDS: asked to end, and killed when it has not by then.
end() {
  local pid tries=$(($3 * 20))
  pid=$(pid_of "$1" "$2") || return 0
  kill -TERM "$pid"
  while pid_of "$1" "$2" >/dev/null; do
    [ $tries -gt 0 ] || { kill -KILL "$pid" && return; }
    tries=$((tries - 1))
    sleep 0.05
  done
}

no_jobs() { [ -z "$(squeue -h -o %A)" ]; }
if pid_of "$folder/run/slurmctld.pid" slurmctld >/dev/null && timeout 20 scontrol ping >/dev/null 2>&1; then
  timeout 20 squeue -h -o %A | xargs -r scancel || true # no job outlives the cluster
  timeout 20 squeue -h -o %A | xargs -r scancel --signal=KILL --full 2>/dev/null || true
  export -f no_jobs
  within 15 bash -c no_jobs || say "some jobs did not end in time"
fi
for node in $(seq -f n%g $nodes); do end "$folder/run/$node.pid" slurmd 5 & done
wait
end "$folder/run/slurmctld.pid" slurmctld 10
end "$folder/run/slurmdbd.pid" slurmdbd 2 # it often lingers in the threads of its database
end "$folder/db/pid" mariadbd 20
end "$folder/munge/pid" munged 5
for node in $(seq -f n%g $nodes); do # cgroups that are empty now; the kernel keeps others
  for group in /sys/fs/cgroup/*/"slurm_$node"; do
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
done
[ $wipe = no ] || rm -rf -- "$folder"
