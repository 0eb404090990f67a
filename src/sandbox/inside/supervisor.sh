# Runs the command $2 with the file mode mask $3 and keeps the end of its output in the folder $1. `dd` writes what
# comes at once, and after 4096 pieces of at most 1 KiB the other file is begun: 8 MiB at the most, the last 4 KiB
# at the least.
dir=$1
{
  (umask "$3"; exec sh -c "$2")
  echo $? >"$dir/exit.new"
  mv "$dir/exit.new" "$dir/exit"
} 2>&1 | {
  # A command that is ended may still have something to say; nobody listening would kill it before it has tidied up.
  trap '' TERM
  at=0
  while echo $at >"$dir/log.at"; do
    # Among other things it says how many whole and other pieces it read, such as `12+3 records in`: fewer than all is
    # the end, and then the other file is still needed.
    pieces=$(LC_ALL=C dd bs=1024 count=4096 of="$dir/log.$at" 2>&1)
    pieces=${pieces%% records in*}
    pieces=${pieces##*[!0-9+]}
    [ -n "$pieces" ] || break
    [ $(($pieces)) -eq 4096 ] || break
    at=$((1 - at))
  done
  # The end of the output, or a full disk: a command that nobody reads would stop.
  cat >/dev/null
}
