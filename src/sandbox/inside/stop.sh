own "$base" || exit 0
take_turn
if load && [ "$owner" = "$run" ]; then
  end_all || fail "the command cannot be ended"
  rm -rf "$dir"
fi
