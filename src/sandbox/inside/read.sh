# Prints at most $3 bytes of the file $2 of the folder $1. What was opened is looked at, not its name: a link that is
# changed meanwhile leads nowhere else.
root=$(cd -- "$1" && pwd -P) || exit 71

[ -e "$root/$2" ] || wrong "$root/$2" 72
[ -f "$root/$2" ] || wrong "$root/$2" 73
exec 3<"$root/$2"
opened=$(readlink "/proc/$$/fd/3") || exit 74
case $opened in
  "${root%/}"/*) ;;
  *) exit 75 ;;
esac
exec head -c "$3" <&3
