# What every script about previews begins with. $1 is the port, $2 the run; plain POSIX sh with busybox's tools.
#
# The state of a port lies in a folder that only the sandbox's user may enter:
#   run      whose command it is
#   pid      the supervisor, leader of a session of its own where the sandbox has `setsid`
#   since    when the supervisor began, in the kernel's ticks; nothing older belongs to it
#   life     when the sandbox's first process began; another value is another life, and nothing of this one runs
#   log.0    output, in two files that take turns; log.at says which one is written
#   exit     the command's exit code, once it has ended
# A process belongs to the command where it is in the supervisor's session, or where its environment has the mark.
# Times are hundredths of a second.
port=$1 run=$2
base=/tmp/.runwarden-preview
dir=$base/$port
lock=$base/$port.lock
mask=$(umask)
umask 077

fail() {
  echo "$1" >&2
  exit 70
}

# Somebody else's folder or a link in its place is not believed.
own() {
  [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]
}

nap() {
  sleep 0.1 2>/dev/null || sleep 1
}

# Sets `now`.
look_at_clock() {
  read -r now line </proc/uptime
  now=${now%.*}${now#*.}
}

# Sets `began`, when the process $1 began.
look_at_start() {
  began=
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  set -- ${line##*) }
  began=${20}
}

# Reads whose command has the port; fails where nobody's has.
load() {
  own "$dir" && look_at_start 1
  [ "$(cat "$dir/life" 2>/dev/null)" = "life $began" ] || return 1
  owner=$(cat "$dir/run" 2>/dev/null)
  case $owner in '' | *[!0-9a-f-]*) return 1 ;; esac
  pid=$(cat "$dir/pid" 2>/dev/null)
  case $pid in '' | *[!0-9]*) pid=none ;; esac
  since=$(cat "$dir/since" 2>/dev/null)
  case $since in '' | *[!0-9]*) since=0 ;; esac
  mark="RUNWARDEN_PREVIEW=$port:$owner"
}

# Whether the process $1 has the mark. Between its variables stand NULs, at which busybox's grep would stop.
marked() {
  case $({ tr -d '\0' <"/proc/$1/environ"; } 2>/dev/null) in
    *"$mark"*) return 0 ;;
    *) return 1 ;;
  esac
}

supervised() {
  marked "$pid"
}

# The processes of the command that has the port.
members() {
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    id=${file#/proc/} id=${id%/stat}
    set -- ${line##*) }
    if [ "$1" != Z ] && [ "${20}" -ge "$since" ] && { [ "$4" = "$pid" ] || marked "$id"; }; then echo "$id"; fi
  done
}

# Ends the command that has the port: TERM, and after 2 s KILL. Gives up after 4 s.
end_all() {
  termed=
  look_at_clock
  until=$now
  while :; do
    ids=$(members)
    [ -n "$ids" ] || return 0
    look_at_clock
    if [ -z "$termed" ]; then
      termed=yes until=$((now + 400))
      kill -TERM $ids 2>/dev/null
    elif [ $((now + 200)) -ge "$until" ]; then
      kill -KILL $ids 2>/dev/null
    fi
    [ "$now" -lt "$until" ] || return 1
    nap
  done
}

# One at a time for each port, also from several servers. A holder that is gone loses its turn at once, and one that
# never said who it is after 7 s.
take_turn() {
  look_at_clock
  until=$((now + 700))
  until mkdir "$lock" 2>/dev/null; do
    holder=$(cat "$lock/pid" 2>/dev/null)
    if [ -n "$holder" ] && [ ! -d "/proc/$holder" ]; then rm -rf "$lock"; fi
    [ "$now" -lt "$until" ] || rm -rf "$lock"
    [ "$now" -lt $((until + 100)) ] || fail "$lock cannot be made"
    nap
    look_at_clock
  done
  trap 'rm -rf "$lock"' EXIT
  echo $$ >"$lock/pid"
}
