# $3 is how many bytes come on standard input. The file is whole or as it was before; folders on the way are made.
rest=$2
while :; do
  case $rest in
    */*) name=${rest%%/*} rest=${rest#*/} ;;
    *) break ;;
  esac
  [ -e "./$name" ] || [ -L "./$name" ] || mkdir -- "./$name" || exit 77
  [ -d "./$name" ] || exit 76
  cd -P -- "./$name" || exit 77
  stay_inside
done
[ ! -L "./$rest" ] || exit 75
[ ! -d "./$rest" ] || exit 73
new=./.runwarden-$$.new
set -C
: >"$new" || exit 77
set +C
trap 'rm -f "$new"' EXIT
head -c "$3" >"$new" || exit 77
[ "$(wc -c <"$new")" -eq "$3" ] || exit 77
if [ -x "./$rest" ]; then chmod +x "$new" || exit 77; fi
mv -f -- "$new" "./$rest" || exit 77
