# $3 is how many bytes of output are wanted. The first line is `running` or the exit code, if any; output follows.
own "$base" && load && [ "$owner" = "$run" ] || { echo; exit 0; }
if [ -e "$dir/exit" ]; then
  # The last output may still be on its way into the log.
  look_at_clock
  until=$((now + 200))
  while supervised && [ "$now" -lt "$until" ]; do
    nap
    look_at_clock
  done
  cat "$dir/exit"
elif supervised; then
  echo running
else
  echo
fi
at=$(cat "$dir/log.at" 2>/dev/null)
case $at in 0) before=1 ;; *) at=1 before=0 ;; esac
cat "$dir/log.$before" "$dir/log.$at" 2>/dev/null | tail -c "$3"
