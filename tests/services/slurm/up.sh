#!/usr/bin/env bash
# Brings up a real Slurm cluster on this machine, without systemd: slurmctld, three virtual nodes
# n1 to n3 of two CPUs and 2000 MB, and accounting with a database of its own. All of it listens on
# 127.0.0.1 only and lives in one folder. What runs already is left as it is.
#
#   up.sh [--no-accounting] [FOLDER]      default: $OUTLAST_TEST_SLURM, else .cache/slurm
#
# Prints the SLURM_CONF to use. Installs Debian's packages when they are missing. Needs root, and
# Debian or Ubuntu. One cluster at a time: the names of the nodes' cgroups are the machine's.
# $OUTLAST_TEST_SLURM_PORT (default 26850) is the first of 20 ports.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

accounting=yes
if [ "${1:-}" = --no-accounting ]; then
  accounting=no
  shift
fi
use_folder "${1:-${OUTLAST_TEST_SLURM:-$here/.cache/slurm}}"
port=${OUTLAST_TEST_SLURM_PORT:-26850}
database_port=$((port + 3))
host=$(hostname -s)
munge_socket=$folder/munge/socket

install_packages() {
  local package missing=() policy=/usr/sbin/policy-rc.d made=""
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "install these with your package manager: ${missing[*]}"
  say "installing ${missing[*]}"
  if [ ! -e "$policy" ]; then # else the packages would start their own daemons
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=yes
  fi
  apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
  apt_install() { apt_get install -y --no-install-recommends "${missing[@]}"; }
  { apt_install || { apt_get update && apt_install; }; } >"$folder/apt.log" 2>&1 || {
    [ -z "$made" ] || rm -f "$policy"
    die "the packages could not be installed: see $folder/apt.log"
  }
  [ -z "$made" ] || rm -f "$policy"
}

# All daemons run as root, so that the folder may lie anywhere, below /root too.
start_munge() {
  [ -s "$folder/munge/key" ] || (
    umask 077
    head -c 1024 /dev/urandom >"$folder/munge/key"
  )
  pid_of "$folder/munge/pid" munged >/dev/null || munged --force --num-threads=2 \
    --key-file="$folder/munge/key" --seed-file="$folder/munge/seed" --socket="$munge_socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/log/munged" 2>>"$folder/log/munged"
  within 20 munge -n -S "$munge_socket" || die "munged does not answer: see $folder/log/munged"
}

start_database() {
  local data=$folder/db/data
  if [ ! -e "$folder/db/made" ]; then
    say "making the accounting database"
    rm -rf "$data"
    mariadb-install-db --no-defaults --user=root --datadir="$data" --skip-test-db \
      --auth-root-authentication-method=socket >"$folder/log/mariadb-install" 2>&1 ||
      die "no database could be made: see $folder/log/mariadb-install"
    touch "$folder/db/made"
  fi
  if ! pid_of "$folder/db/pid" mariadbd >/dev/null; then
    setsid mariadbd --no-defaults --user=root --datadir="$data" --socket="$folder/db/socket" \
      --pid-file="$folder/db/pid" --bind-address=127.0.0.1 --port="$database_port" \
      --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --innodb-fast-shutdown=2 \
      --log-error="$folder/log/mariadbd" </dev/null >/dev/null 2>&1 &
  fi
  local sql=(mariadb --no-defaults -S "$folder/db/socket" -e)
  within 60 "${sql[@]}" 'select 1' || die "mariadbd does not answer: see $folder/log/mariadbd"
  "${sql[@]}" "create database if not exists slurm_acct_db;
    create or replace user slurm@'127.0.0.1' identified by 'loopback';
    create or replace user slurm@localhost identified by 'loopback';
    grant all on slurm_acct_db.* to slurm@'127.0.0.1', slurm@localhost;"
}

start_accounting() {
  start_database
  (
    umask 077
    cat >"$folder/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$munge_socket
CommunicationParameters=NoInAddrAny
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
PidFile=$folder/run/slurmdbd.pid
LogFile=$folder/log/slurmdbd
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database_port
StorageUser=slurm
StoragePass=loopback
StorageLoc=slurm_acct_db
END
  )
  pid_of "$folder/run/slurmdbd.pid" slurmdbd >/dev/null || slurmdbd
  within 60 sacctmgr -n show cluster || die "slurmdbd does not answer: see $folder/log/slurmdbd"
  [ -n "$(sacctmgr -nP show cluster outlast)" ] || {
    sacctmgr -i add cluster outlast
    sacctmgr -i add account outlast cluster=outlast
    sacctmgr -i add user root account=outlast
  } >/dev/null
}

# Memory is limited, and processes are found, by cgroups of version 1 where they can be made.
# Elsewhere Slurm looks every two seconds who uses too much; such a job is killed all the same.
write_configuration() {
  local tracking account storage
  tracking="ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"
  if [ -w /sys/fs/cgroup/memory ] && [ -w /sys/fs/cgroup/freezer ]; then
    tracking="ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"
    printf '%s\n' CgroupMountpoint=/sys/fs/cgroup ConstrainRAMSpace=yes
  fi >"$folder/cgroup.conf"
  storage="AccountingStorageType=accounting_storage/none"
  account=""
  if [ "$accounting" = yes ]; then
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$munge_socket"
    account="AccountingStoreFlags=job_comment"
  fi
  cat >"$SLURM_CONF" <<END
ClusterName=outlast
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$munge_socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdPidFile=$folder/run/%n.pid
SlurmdLogFile=$folder/log/%n
SlurmdSpoolDir=$folder/spool/%n
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
DefMemPerCPU=200
MinJobAge=30
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=15
SlurmctldTimeout=15
UnkillableStepTimeout=30
$tracking
$storage
$account
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 10))-$((port + 9 + nodes))] CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=short Nodes=ALL MaxTime=2 DefaultTime=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=60 DefaultTime=1 PriorityTier=2 State=UP
END
}

start_nodes() {
  local node
  for node in $(seq -f n%g $nodes); do
    mkdir -p "$folder/spool/$node"
    pid_of "$folder/run/$node.pid" slurmd >/dev/null || slurmd -N "$node"
  done
  # One that a test has drained, or that was down, serves again.
  ready() {
    local states
    states=$(sinfo -hN -p main -o %t)
    [ "$(grep -cE '^(idle|mix|alloc|comp)$' <<<"$states")" = $nodes ] && return
    ! grep -qE 'down|drain|drng|fail' <<<"$states" ||
      scontrol update nodename="n[1-$nodes]" state=resume
    return 1
  }
  # shellcheck disable=SC2016
  export -f ready && export nodes
  within 60 bash -c ready || {
    sinfo -N >&2
    die "not all nodes came: see $folder/log"
  }
}

packages=(slurmctld slurmd slurm-client munge)
[ $accounting = no ] || packages+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server)
install_packages "${packages[@]}"

if [ -e "$folder/accounting" ] && [ "$(cat "$folder/accounting")" != $accounting ]; then
  bash "$(dirname "${BASH_SOURCE[0]}")/down.sh" "$folder" # it is another configuration
fi
mkdir -p "$folder"/{run,log,state,spool,db,munge}
chmod 700 "$folder"/{state,munge,db}
chmod 755 "$folder/munge" # the socket is everybody's
echo $accounting >"$folder/accounting"
write_configuration
start_munge
[ $accounting = no ] || start_accounting
pid_of "$folder/run/slurmctld.pid" slurmctld >/dev/null || slurmctld
within 30 scontrol ping || die "slurmctld does not answer: see $folder/log/slurmctld"
start_nodes
echo "SLURM_CONF=$SLURM_CONF"
