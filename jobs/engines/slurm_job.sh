# What jobs/engines/slurm_script.py puts behind the settings of one job. The working directory is the
# job's. Needs bash 4.2 or newer, GNU coreutils and /proc.
# ---
LC_ALL=C
umask 077
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-${SLURM_JOB_ID:-0}}
node=${SLURMD_NODENAME:-$HOSTNAME}
batch="{\"job\": \"$job\", \"node\": \"${node//[^A-Za-z0-9._-]/?}\", \"restarts\": ${SLURM_RESTART_COUNT:-0}}"
never=999999999999
why=exit error="" child="" sleeper="" stirred=no limit_at=$never kill_at=$never woken=no

# Of two submissions of the job, the answer of one of which was lost, only the first that begins may
# run. A link is made whole by one alone, on NFS too, where `ln` may fail although it has made it.
printf '%s\n' "$job" >".claim.$job" || exit
ln -T -- ".claim.$job" .claim 2>/dev/null
rm -f -- ".claim.$job"
read -r claimed <.claim || exit
if [ "$claimed" != "$job" ]; then
  echo "the job is run by another submission of it, Slurm job $claimed" >&2
  exit "$ran_before"
fi

# A run that was ended from outside, and is to go on: its node failed, or another job came first.
if [ "$runs_again" = yes ] && [ -e exit ] && [[ $(<exit) == '{"why": "terminated",'* ]]; then
  rm -f exit
fi
if [ -e exit ] || { [ -e started ] && [ "$runs_again" = no ]; }; then
  echo "the job ran before and must not run twice" >&2
  exit "$ran_before"
fi

# Of a first run that left none there is nothing to go on with: it begins as if it were the first.
has_checkpoint() (
  [ -n "$checkpoint" ] || exit 0
  cd -- "$cwd" && shopt -s globstar dotglob nullglob || exit
  for path in **; do
    # shellcheck disable=SC2053 # it is a pattern
    [[ $path != $checkpoint || ! -f $path || -L $path ]] || exit 0
  done
  exit 1
)
if [ -e started ]; then
  ! has_checkpoint || command=("${command_again[@]}")
  [ -z "$stop_file" ] || rm -f -- "$cwd/$stop_file" # of the stop of the run before
fi

# now: sets `now` by a clock that nobody sets.
now() {
  local up
  read -r up _ </proc/uptime
  now=$((10#${up/./}))
}

# publish NAME TEXT: the file is there whole or not at all, and on the disk. Written in place, so that
# space that was reserved for it serves.
publish() {
  printf '%s\n' "$2" 1<>".$1.tmp" && truncate -s $((${#2} + 1)) ".$1.tmp" || return
  sync ".$1.tmp" 2>/dev/null || sync
  [ ! -d "$1" ] || mv -- "$1" ".$1.$$.aside" # the job can have made it
  mv -f -- ".$1.tmp" "$1" || return
  sync . 2>/dev/null || sync
}

# The memory that the job is held to by its cgroup, of either version, and that cgroup's folder.
memory_cgroup=""
memory_mb=""
find_memory_limit() {
  local line folder limit
  while IFS= read -r line; do
    case $line in
      *:memory:*/job_*) folder=/sys/fs/cgroup/memory${line#*:memory:} ;;
      0::*/job_*) folder=/sys/fs/cgroup${line#0::} ;;
      *) continue ;;
    esac
    memory_cgroup=$folder
    while [[ $folder == */job_* ]]; do
      limit=""
      read -r limit 2>/dev/null <"$folder/memory.limit_in_bytes" || read -r limit 2>/dev/null <"$folder/memory.max"
      if [[ $limit =~ ^[0-9]{1,17}$ ]] && [ $((limit >> 20)) -lt "${memory_mb:-$never}" ]; then
        memory_mb=$((limit >> 20))
      fi
      folder=${folder%/*}
    done
    [ -z "$memory_mb" ] || return
  done </proc/self/cgroup
}

out_of_memory() {
  local name count
  [ -n "$memory_mb" ] || return
  while read -r name count; do
    [ "$name" != oom_kill ] || [ "$count" = 0 ] || return 0
  done < <(cat "$memory_cgroup/memory.oom_control" "$memory_cgroup/memory.events" 2>/dev/null)
  return 1
}

# is_ours PID: whether the process came of the command: by its mark, or the step's cgroup.
step_cgroup=""
[[ $(</proc/self/cgroup) =~ :([^:]*/job_${SLURM_JOB_ID:-none}/step_batch) ]] && step_cgroup=${BASH_REMATCH[1]}
is_ours() {
  local text word
  [ "$1" != $$ ] && [ "$1" != $PPID ] || return
  {
    read -r text <"/proc/$1/stat" || return
    case ${text##*) } in [ZX]*) return 1 ;; esac
    while IFS= read -r -d '' word; do
      [ "$word" != "$mark" ] || return 0
    done <"/proc/$1/environ"
    [ -n "$step_cgroup" ] || return
    [[ $text != *"(slurmstepd)"* ]] || return
    while read -r text; do
      [[ $text != *":$step_cgroup"?(/*) ]] || return 0
    done <"/proc/$1/cgroup"
  } 2>/dev/null
  return 1
}

# find_ours [SIGNAL]: sets `ours`; each is signalled before the next is looked for.
find_ours() {
  local pid
  ours=()
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    is_ours "$pid" || continue
    [ -z "$1" ] || kill -s "$1" "$pid" 2>/dev/null
    ours+=("$pid")
  done
}

# stop WHY GRACE: asks the command's group to end; a later call can only bring the kill nearer.
stop() {
  stirred=yes
  now
  if [ $why = exit ]; then
    why=$1
    if [ -z "$stop_file" ] || ! : 2>/dev/null >>"$cwd/$stop_file"; then
      kill -s "$stop_signal" -- "-$child" 2>/dev/null
    fi
    kill -s CONT -- "-$child" 2>/dev/null # a frozen process cannot end
  fi
  [ $((now + $2)) -ge $kill_at ] || kill_at=$((now + $2))
  wake
}

wake() {
  woken=yes # which counts when the sleeper's name is not known yet
  [ -z "$sleeper" ] || kill "$sleeper" 2>/dev/null
}

# What TERM means: our wish, which can name another grace, or somebody else's.
asked_to_end() {
  local wish="" given=$grace
  if [ -e cancel.json ]; then
    { read -r -d '' wish <cancel.json; } 2>/dev/null
    if [[ $wish =~ \"grace_s\":\ *([0-9]{1,9})(\.([0-9]{1,2}))? ]]; then
      wish=${BASH_REMATCH[3]}00
      given=$((BASH_REMATCH[1] * 100 + 10#${wish:0:2}))
    fi
    stop cancelled "$given"
  else
    stop terminated "$grace"
  fi
}

# When Slurm will end the job, by our clock, if that is known. Not every release tells the job itself;
# of one that asked for no time only the controller knows it then.
ends_at=$never
ends_at_epoch() { # SECONDS since the epoch, or anything else for what is not known
  local epoch
  now
  printf -v epoch '%(%s)T' -1
  [[ ! $1 =~ ^[0-9]{1,12}$ ]] || ends_at=$((now + ($1 - epoch) * 100))
}

# What USR1 means: that the time limit is near, or at some sites that another job is to come first.
told_of_end() {
  local end=""
  if [ "$ends_at" = $never ]; then
    SLURM_TIME_FORMAT=%s timeout 10 squeue -h -j "${SLURM_JOB_ID:-0}" -o %e >&7 2>/dev/null
    read -r -t 1 -u 7 end # not by a substitution, which another trap would break
    ends_at_epoch "$end"
  fi
  now
  if [ $((ends_at - now)) -le "$near_end" ]; then
    stop timeout "$grace"
  else
    asked_to_end
  fi
}

# cannot WHAT: said by the command's process when it cannot become the command.
cannot() {
  printf '%s' "$1" >.start_error
  exit 127
}

shopt -s extglob
rm -f .start_error
printf '%4096s' "" >.exit.tmp || exit
find_memory_limit
now
[ "$slurm_limit" = 0 ] || ends_at=$((now + slurm_limit))
ends_at_epoch "${SLURM_JOB_END_TIME:-}"
exec 7<> <(:) # a pipe to ourselves, to read what a command prints that a trap runs
exec 8<> <(:) # another one, to read what builtins print: the disk may be full
exec 9<> <(:) # another one: the gate at which the command waits for its record
set -m        # it gets a process group of its own
(
  read -r -t 60 -u 9 || exit 126
  exec 7<&- 8<&- 9<&-
  # From here on the job's variables may have the names of ours: only arguments are safe.
  set -- "$PWD" "$mark" "$cwd" "$executable" "${command[@]}"
  environment
  if [ -e slurm.secrets ]; then
    while IFS= read -r -d ''; do
      unset -v "${REPLY%%=*}"
      export "${REPLY?}"
    done <slurm.secrets
  fi
  export "${2?}"
  cd -- "$3" || cannot "working directory $3: cannot be entered"
  case $4 in
    */*) ;; # else it is what the node's modules and the job's PATH have of that name
    *) set -- "${@:1:3}" "$(type -P -- "$4" || printf '%s' "$4")" "${@:5}" ;;
  esac
  { [ -f "$4" ] && [ -x "$4" ]; } || { cd -- "$1" && cannot "executable $4: cannot be run"; }
  exec -a "$5" "$4" "${@:6}" # what fails even so is told on stderr, with exit code 126
) </dev/null >>stdout.log 2>>stderr.log &
child=$!
set +m
now
began=$now
[ "$time_limit" = 0 ] || limit_at=$((now + time_limit))
read -r stat <"/proc/$child/stat"
read -r -a fields <<<"${stat##*) }"
read -r boot_id </proc/sys/kernel/random/boot_id
gpus=""
[[ ! ${SLURM_JOB_GPUS:-} =~ ^[0-9]+(,[0-9]+)*$ ]] || gpus=${SLURM_JOB_GPUS//,/, }
limits=""
[ -z "$memory_mb" ] || limits=", \"limits\": {\"memory_mb\": $memory_mb, \"memory_mb_by\": \"cgroup\"}"
started_at=$(date +%s.%N)
trap '' HUP
# A trap that runs while bash reads a command substitution breaks it: there are none while these last.
trap told_of_end USR1
trap asked_to_end TERM
trap wake CHLD
# Not before: whoever sees that it has started may ask it to end.
publish started "{\"pid\": $child, \"start_ticks\": \"${fields[19]}\", \"boot_id\": \"$boot_id\", \
\"started_at\": $started_at, \"attempt\": $attempt, \"gpu_ids\": [$gpus], \"batch\": $batch$limits}" || exit
echo go >&9
exec 9<&-

set -o posix # only then does the end of a child interrupt `wait`
while kill -0 "$child"; do
  woken=no
  now
  if [ $now -ge $limit_at ]; then
    limit_at=$never
    stop timeout "$grace"
  fi
  if [ $now -ge $kill_at ]; then
    kill_at=$((never - 1))
    kill -s KILL -- "-$child"
  fi
  left=3000
  for at in $limit_at $kill_at; do
    [ $((at - now)) -ge $left ] || left=$((at > now ? at - now : 0))
  done
  printf -v left '%d.%02d' $((left / 100)) $((left % 100))
  sleep "$left" &
  sleeper=$!
  # Whatever came since the loop began is known, or has ended the sleeper: nothing is slept through.
  [ $woken = yes ] || ! kill -0 "$child" || wait "$sleeper"
  kill "$sleeper"
  wait "$sleeper"
  sleeper=""
done 2>/dev/null

# Shells make 137 of a SIGKILL and of `exit 137`; only their list of jobs tells which it was.
jobs -l >&8
trap - CHLD
set +o posix
echo . >&8
ended_as=""
while read -r -u 8 first pid text && [ "$first" != . ]; do
  [ "$pid" != "$child" ] || ended_as=$text
done
signal=null
case $ended_as in
  Done* | Exit*) # `Done`, `Done(3)`, `Exit 3`
    [[ $ended_as =~ ^(Done\(|Exit\ )([0-9]+) ]] && exit_code=${BASH_REMATCH[2]} || exit_code=0
    code=$exit_code
    ;;
  *)
    for ((tries = 0; tries < 20; tries++)); do
      stirred=no
      wait "$child" 2>/dev/null
      code=$?
      # Unless it tells of a signal that came to us, such as that of a child's end.
      [ $stirred = yes ] || [ $code = 145 ] || break
    done
    exit_code=null signal=$((code - 128))
    [ $code -gt 128 ] || { exit_code=$code signal=null; }
    ;;
esac

find_ours ""
while [ ${#ours[@]} -gt 0 ] && [ $now -lt $kill_at ] && [ $kill_at -lt $((never - 1)) ]; do
  sleep 0.05
  find_ours ""
  now
done
trap '' TERM USR1
if [ -s .start_error ]; then
  why=start_error
  error=$(head -c 400 .start_error)
  error="\"${error//[^ !#-\[\]-~]/?}\""
  exit_code=null signal=null
fi
rm -f .start_error
hit=null
! out_of_memory || hit='"memory_mb"'
now
give_up=$((now + 1000))
find_ours STOP
while [ ${#ours[@]} -gt 0 ]; do
  kill -s KILL "${ours[@]}" 2>/dev/null
  sleep 0.02
  find_ours STOP
  now
  [ $now -lt $give_up ] || break
done
survivors=${ours[*]}

# seconds MINUTES-AND-SECONDS: `1m2.345s` as 62.345
seconds() {
  local minutes=${1%%m*} rest=${1#*m}
  rest=${rest%s}
  echo "$((minutes * 60 + ${rest%%.*})).${rest#*.}"
}
times >&8
read -r -u 8 _ # of the shell itself
read -r -u 8 user system
now
wall=$((now - began))
printf -v wall '%d.%02d' $((wall / 100)) $((wall % 100))
record="{\"why\": \"$why\", \"exit_code\": $exit_code, \"signal\": $signal, \"error\": ${error:-null}, \
\"ended_at\": $(date +%s.%N), \"wall_s\": $wall, \"user_s\": $(seconds "$user"), \"system_s\": $(seconds "$system"), \
\"max_rss_kb\": null, \"survivors\": [${survivors// /, }], \"limit_hit\": $hit, \"batch\": $batch}"
for pause in 0.1 0.5 1 2 5 10 20; do # a full disk may have room again
  publish exit "$record" && break
  sleep $pause
done
exit "$code"
