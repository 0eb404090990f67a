# $3 is how many bytes come on standard input. The file is whole or as it was before; folders on the way are made.
# Whoever else is in the container may put links anywhere meanwhile: what was opened once is used from then on, and the
# last step is a rename, which follows none.
rest=$2
while :; do
  case $rest in
    */*) name=${rest%%/*} rest=${rest#*/} ;;
    *) break ;;
  esac
  [ -e "./$name" ] || [ -L "./$name" ] || mkdir -- "./$name" || exit 77
  [ -d "./$name" ] || wrong "./$name" 76
  cd -P -- "./$name" || exit 77
  stay_inside
done

# Ends where something else than a file lies in the file's place.
look() {
  [ ! -L "./$rest" ] || exit 75
  [ ! -d "./$rest" ] || exit 73
}

look
new=./.runwarden-$$.new
trap 'rm -f "$new"' EXIT
set -C
exec 3>"$new"
set +C
opened=/proc/$$/fd/3
head -c "$3" >&3 || exit 77
[ "$(wc -c <"$opened")" -eq "$3" ] || exit 77
if [ -x "./$rest" ]; then chmod +x "$opened" || exit 77; fi
# Without -T it would go into a folder, or where a link to one leads.
mv -fT -- "$new" "./$rest" && exit 0
look
exit 77
