# What up.sh and down.sh share. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
nodes=3

say() { printf 'slurm: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# use_folder FOLDER: where the cluster lives; everything is named relative to it from now on.
use_folder() {
  [ "$(id -u)" = 0 ] || die "a Slurm cluster needs root: run this with sudo"
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  [ ${#folder} -le 80 ] || die "$folder is too long for the path of a socket: name a shorter one"
  case $folder in *[!A-Za-z0-9._/-]*) die "Slurm cannot read a path such as $folder" ;; esac
  # Every daemon inherits this, which is how ours are told from those of another cluster.
  export SLURM_CONF=$folder/slurm.conf
}

# pid_of PIDFILE NAME: the process of this cluster that the file names, if it lives.
pid_of() {
  local pid name word
  read -r pid 2>/dev/null <"$1" && read -r name 2>/dev/null <"/proc/$pid/comm" || return 1
  [ "$name" = "$2" ] || return 1
  while IFS= read -r -d '' word; do
    [ "$word" != "SLURM_CONF=$SLURM_CONF" ] || { echo "$pid"; return; }
  done 2>/dev/null <"/proc/$pid/environ"
  return 1
}

# within SECONDS COMMAND...: whether the command succeeds in that time, tried again and again.
within() {
  local end=$((SECONDS + $1))
  shift
  until timeout 20 "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}
