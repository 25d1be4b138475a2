#!/usr/bin/env bash
# Creates a Cloud TPU, runs one command on all of its workers, brings the logs home and deletes the TPU.
#
#   scripts/tpu_pod.sh --name=NAME --zone=us-west4-a --type=v5litepod-64 --spot --queued -- \
#       python train.py --config=configs/cifar10_vgg16.py --workdir=gs://BUCKET/run
#
# The repository around this script (what git tracks or would track) is copied to each worker and installed there.
# Where the TPU is taken away, or the command ends with 75 (it was asked to stop and has saved), the same command goes
# on, on another TPU where need be: give it a --workdir on gs://, since a worker's disk goes with it.
# The TPU is deleted at the end, after a failure and after Ctrl-C; one that was there before is used and left alone:
# what this command creates carries the label transfer_run=ID, and nothing without its ID is ever deleted.
#
#   --name=NAME          of the TPU
#   --zone=ZONE          that has the type: gcloud compute tpus accelerator-types list --zone=ZONE
#   --type=TYPE          v5litepod-64 (default), v6e-256, v4-128 …
#   --version=VERSION    of the workers' software; default: the plain one for the type
#   --project=PROJECT    default: gcloud's
#   --spot               cheaper, may be taken away at any time
#   --queued             waits in the queue for capacity instead of failing where there is none
#   --create_flag=FLAG   passed on to `gcloud … create`, as often as needed: --create_flag=--network=NAME
#   --install=COMMAND    in place of installing this package with the extra `tpu` under ~/env
#   --logs=FOLDER        default: logs/NAME; in it a folder a try, a file a worker
#   --retries=COUNT      tries after the first (default 5)
#   --pause=SECONDS      between two looks at the TPU's state (default 30)
#   --keep               does not delete the TPU at the end
#   --dry_run            prints every command and runs none
#
# Needs gcloud, logged in, and its key in the agent: ssh-add ~/.ssh/google_compute_engine
# Exit codes: the command's; 2 bad arguments; 75 taken away more often than --retries; 130 Ctrl-C.
set -euo pipefail
# every child in a process group of its own: it ends with all that it started
set -m

readonly PREEMPTED=75 BROKEN_CONNECTION=255
# On a worker: the copy, the environment, the process to stop.
readonly COPY="\$HOME/transfer" ENVIRONMENT="\$HOME/env" PID_FILE="\$HOME/transfer.pid"
readonly ROOT="${BASH_SOURCE[0]%/*}/.." UV="\$HOME/.local/bin/uv"

name='' zone='' type='v5litepod-64' version='' project='' logs='' retries=5 pause=30
keep=false dry_run=false queued=false
install="python3 -m pip install --quiet --user uv && $UV venv --quiet --allow-existing --python=3.12 $ENVIRONMENT && \
$UV pip install --quiet --python=$ENVIRONMENT/bin/python -e \"${COPY}[tpu]\""
create_flags=() command=() labels=''
# questions: how often gcloud is asked the same before there is no answer
# id: the label of what this command creates; asked: whether it has asked for a TPU; child: what is waited for;
# shown: what shows worker 0's output; state, owner: of the TPU or its request, at the last look
questions=10 id='' asked=false child=0 shown=0 state='' owner=''

main() {
  parse "$@"
  local try=0 code
  while :; do
    try=$((try + 1)) code=0
    attempt "$logs/$try" || code=$?
    if ((code == 0)); then
      break
    elif ((code != PREEMPTED)); then
      say "failed with exit code $code; logs: $logs/$try"
      exit "$code"
    elif ((try > retries)); then
      say "stopped $try times; the same command goes on where this one stopped; logs: $logs/$try"
      exit "$PREEMPTED"
    fi
    say "stopped; try $((try + 1)) of $((retries + 1)) follows"
    # a TPU that is about to be taken away looks well for some seconds
    wait_for sleep "$pause"
  done
  if ! $dry_run; then say "done; logs: $logs/$try"; fi
}

# Everything from nothing to the command's end, logs in folder $1. 0; 75: to be tried again; else failed.
attempt() {
  run mkdir -p "$1" || return
  look || return 1
  if [[ -z $state || $owner == "$id" && $state != READY ]]; then
    create || return
  elif [[ $state != READY ]]; then
    say "$name is there ($state) and was not created by this command, so it is left alone; delete it or take another --name"
    return 1
  elif [[ $owner != "$id" ]]; then
    say "$name is there and is used; it is not deleted at the end"
  fi
  local code=0
  # the copy of an earlier try whose connection broke may still run
  copy && on_all_workers "$install" && on_all_workers "$(stopping)" || code=$?
  if ((code == 0)); then
    execute "$1" || code=$?
    if ((code == BROKEN_CONNECTION)); then return "$PREEMPTED"; fi
  fi
  if ((code != 0 && code != 2 && code != PREEMPTED)); then
    wait_for sleep "$pause"
    if ! look || [[ $state != READY ]]; then return "$PREEMPTED"; fi
  fi
  return "$code"
}

# Sets `state` (READY, PREEMPTED, CREATING …) and `owner` of what has the name: the TPU, or else the request for one.
# Both are empty where there is nothing; fails where that could not be found out.
look() {
  ask tpu-vm 'value(state,labels.transfer_run)' || return 1
  if $queued && [[ -z $state ]]; then
    ask queued-resources 'value(state.state,tpu.nodeSpec[0].node.labels.transfer_run)' || return 1
  fi
}

# Asks gcloud for a $1 of this name, the answer in format $2, again where none comes; for `look`.
ask() {
  local question=(gcloud compute tpus "$1" describe "$name" "--zone=$zone" "${common[@]}" "--format=$2")
  local answer errors try
  state='' owner=''
  # a bare `return` would give the code of what came before the trap, where `finish` asks
  if $dry_run; then print "${question[@]}" && return 0; fi
  errors="$logs/gcloud.err"
  for ((try = 1; try <= questions; try++)); do
    if answer=$("${question[@]}" 2>"$errors"); then
      IFS=$'\t' read -r state owner <<<"$answer"
      return 0
    elif grep -q NOT_FOUND "$errors"; then
      return 0
    fi
    if ((try < questions)); then wait_for sleep "$pause"; fi
  done
  cat "$errors" >&2
  say "what there is of the name $name could not be found out"
  return 1
}

create() {
  local flags=("--zone=$zone" "${common[@]}" "--accelerator-type=$type" "--labels=${labels}transfer_run=$id")
  flags+=(${create_flags[@]+"${create_flags[@]}"})
  # of a TPU that was taken away the name is still in use
  if [[ -n $state ]]; then delete || true; fi
  asked=true
  if $queued; then
    run gcloud compute tpus queued-resources create "$name" "--node-id=$name" "--runtime-version=$version" \
      "${flags[@]}" && wait_in_queue
  else
    run gcloud compute tpus tpu-vm create "$name" "--version=$version" "${flags[@]}"
  fi
}

# 0 as soon as the TPU is there; 75 where the request was given up.
wait_in_queue() {
  local before=''
  while :; do
    ask queued-resources 'value(state.state)' || return
    if $dry_run; then return; fi
    if [[ $state != "$before" ]]; then say "queue: $state"; fi
    before=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | '') return "$PREEMPTED" ;;
    esac
    wait_for sleep "$pause"
  done
}

copy() {
  local archive="$logs/transfer.tar.gz"
  # what git tracks, as it lies here, and what it would track
  run bash -o pipefail -c "git -C $(quoted "$ROOT") ls-files -z --cached --others --exclude-standard | \
tar -C $(quoted "$ROOT") --null -T - -czf $(quoted "$archive")" &&
    run gcloud compute tpus tpu-vm scp "$archive" "$name:" "--zone=$zone" "${common[@]}" --worker=all &&
    on_all_workers "mkdir -p $COPY && tar -xzf transfer.tar.gz -C $COPY"
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "${common[@]}" --worker=all "--command=$1"
}

# The command: everybody's output into folder $1, worker 0's here, too.
execute() {
  local words code=0
  words=$(quoted "${command[@]}")
  if ! $dry_run; then
    touch "$1/0.log"
    tail -n +1 -F "$1/0.log" 2>/dev/null &
    shown=$!
  fi
  # ssh does not pass a signal on, so a worker remembers whom to stop
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "${common[@]}" --worker=all "--output-directory=$1" \
    --ssh-flag=-oServerAliveInterval=30 "--command=cd $COPY && export PATH=\"$ENVIRONMENT/bin:\$PATH\" || exit; \
$words & echo \$! >$PID_FILE; wait \$!; code=\$?; rm -f $PID_FILE; exit \$code" || code=$?
  if ((shown)); then sleep 0.3; fi
  hide
  return "$code"
}

hide() {
  if ((shown)); then kill "$shown" 2>/dev/null || true; fi
  shown=0
}

# For a worker: asks what runs there to stop, and waits until it has saved.
stopping() {
  printf '%s' "if [ -f $PID_FILE ]; then pid=\$(cat $PID_FILE); kill -TERM \$pid 2>/dev/null && \
timeout 300 tail --pid=\$pid -f /dev/null; rm -f $PID_FILE; fi"
}

delete() {
  local force=()
  # the TPU goes with its request
  if $queued; then force=(--force); fi
  run gcloud compute tpus "$(kind)" delete "$name" "--zone=$zone" "${common[@]}" ${force[@]+"${force[@]}"}
}

kind() {
  if $queued; then printf 'queued-resources'; else printf 'tpu-vm'; fi
}

# Whatever ended the script: nothing of it runs on, and a TPU that it created is deleted.
finish() {
  local code=$?
  trap - EXIT
  trap '' INT TERM HUP
  # somebody waits for the end, and Ctrl-C does nothing any more
  questions=2
  if ((child)); then kill -TERM -- "-$child" 2>/dev/null || true; fi
  hide
  if $asked && ! $keep; then
    delete_ours "$code"
  elif ((code > 128)) && [[ -n $zone ]]; then
    on_all_workers "$(stopping)" || true
  fi
  exit "$code"
}

# Deletes what carries this command's label, and says so where something may be left; $1: the script's exit code.
delete_ours() {
  local left
  left="$name may still be there and cost money: gcloud compute tpus $(kind) delete $name --zone=$zone"
  if ! $dry_run && ! look; then
    say "$left"
  elif $dry_run || [[ -n $state && $owner == "$id" ]]; then
    delete || say "$left"
  elif [[ -z $state ]] && (($1 > 128)); then
    # the request was cut off: what it asked for may come yet
    say "$left"
  fi
}

# Runs a command and returns its exit code; under --dry_run prints it only.
run() {
  if $dry_run; then print "$@"; else wait_for "$@"; fi
}

# The shell waits for the command in the background, so that it answers a signal at once.
wait_for() {
  local code=0
  "$@" </dev/null &
  child=$!
  wait "$child" || code=$?
  child=0
  return "$code"
}

print() {
  printf '%s\n' "$(quoted "$@")"
}

# Words as a shell reads them.
quoted() {
  local word flag words=() quote="'\\''"
  for word in "$@"; do
    flag=''
    if [[ $word =~ ^--[A-Za-z0-9_.-]+= ]]; then flag=${BASH_REMATCH[0]} word=${word#*=}; fi
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then word="'${word//\'/$quote}'"; fi
    words+=("$flag$word")
  done
  printf '%s' "${words[*]}"
}

say() {
  printf 'tpu_pod: %s\n' "$*" >&2
}

wrong() {
  printf 'error: %s; see --help\n' "$*" >&2
  exit 2
}

parse() {
  local value
  while (($#)); do
    value=${1#*=}
    case $1 in
      --help) sed -n '2,/^set -/s/^#\( \|$\)//p' "${BASH_SOURCE[0]}" && exit ;;
      --name=?*) name=$value ;;
      --zone=?*) zone=$value ;;
      --type=?*) type=$value ;;
      --version=?*) version=$value ;;
      --project=?*) project=$value ;;
      # gcloud takes the last --labels alone
      --create_flag=--labels=?*) labels+="${value#*=}," ;;
      --create_flag=-*) create_flags+=("$value") ;;
      --install=?*) install=$value ;;
      --logs=?*) logs=$value ;;
      --retries=*) retries=$value ;;
      --pause=*) pause=$value ;;
      --spot) create_flags+=(--spot) ;;
      --queued) queued=true ;;
      --keep) keep=true ;;
      --dry_run) dry_run=true ;;
      --) shift && command=("$@") && break ;;
      *) wrong "unknown argument $1" ;;
    esac
    shift
  done
  check
  logs=${logs:-logs/$name}
  version=${version:-$(plain_version)}
  if $dry_run; then id=ID; else id="$(date -u +%Y%m%d-%H%M%S)-$$-$RANDOM"; fi
  common=(--quiet ${project:+"--project=$project"})
}

check() {
  local number
  [[ -n $name ]] || wrong '--name=NAME is missing'
  [[ -n $zone ]] || wrong '--zone=ZONE is missing'
  for number in "$retries" "$pause"; do
    [[ $number =~ ^[0-9]+$ ]] || wrong "--retries and --pause are whole numbers, not $number"
  done
  ((${#command[@]})) || wrong 'the command is missing: … -- python train.py --config=…'
  $dry_run || hash gcloud 2>/dev/null || wrong 'gcloud is not installed'
}

# https://cloud.google.com/tpu/docs/runtimes
plain_version() {
  case $type in
    v5litepod-*) printf 'v2-alpha-tpuv5-lite\n' ;;
    v5p-*) printf 'v2-alpha-tpuv5\n' ;;
    v6e-*) printf 'v2-alpha-tpuv6e\n' ;;
    *) printf 'tpu-ubuntu2204-base\n' ;;
  esac
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
main "$@"
