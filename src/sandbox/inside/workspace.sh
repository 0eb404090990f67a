# For the scripts of a workspace. $1 is its folder, $2 a relative path without `..`. A folder is entered before it is
# looked at, so that a link which is changed meanwhile leads nowhere else.
LC_ALL=C
root=$(cd -- "$1" 2>/dev/null && pwd -P) || exit 71
cd -P -- "$root" || exit 71

# Whether this folder lies inside.
stay_inside() {
  here=$(pwd -P) || exit 77
  case ${here%/}/ in
    "${root%/}"/*) ;;
    *) exit 75 ;;
  esac
}

# Mode in hex, size, and seconds of the last change, then the name.
show() {
  numbers=$(stat -c '%f %s %Y' -- "./$1") && printf '%s\0%s\0' "$numbers" "$1"
}
