# $3 is the repository's folder, $4 the command, $5 the address that it should listen on, $6 the supervisor.
mkdir "$base" 2>/dev/null
own "$base" || fail "$base belongs to somebody else"
cd -- "$3" || exit 71
take_turn
if load; then
  if [ "$owner" = "$run" ] && [ ! -e "$dir/exit" ] && supervised; then exit 0; fi
  end_all || fail "the command before it cannot be ended"
fi
rm -rf "$dir"
mkdir "$dir" || fail "$dir cannot be made"
look_at_start 1
echo "life $began" >"$dir/life"
echo "$run" >"$dir/run" || fail "$dir cannot be written"
leader=
if command -v setsid >/dev/null 2>&1; then leader=setsid; fi
PORT=$port HOST=$5 RUNWARDEN_PREVIEW=$port:$run $leader sh -c "$6" runwarden-preview "$dir" "$4" "$mask" \
  </dev/null >/dev/null 2>&1 &
echo $! >"$dir/pid"
look_at_start $!
echo "$began" >"$dir/since"
load || fail "$dir cannot be read"
# Until then it still looks like this script.
look_at_clock
until=$((now + 200))
until supervised || [ -e "$dir/exit" ]; do
  look_at_clock
  [ "$now" -lt "$until" ] || fail "the command does not start"
  nap
done
