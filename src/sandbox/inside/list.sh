# $3 is how many entries are wanted at the most.
[ -e "./$2" ] || [ -L "./$2" ] || wrong "./$2" 72
[ -d "./$2" ] || wrong "./$2" 76
cd -P -- "./$2" || exit 77
stay_inside
left=$3
for name in * .[!.]* ..?*; do
  [ "$left" -gt 0 ] || break
  [ -e "./$name" ] || [ -L "./$name" ] || continue
  # What is gone meanwhile is no entry.
  show "$name" && left=$((left - 1))
done
exit 0
