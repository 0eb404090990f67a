# Ends with $2, unless the path $1 leads out of $root by a link: then that is what is wrong with it, whatever it leads to.
wrong() {
  end=$(readlink -f -- "$1" 2>/dev/null)
  if [ -z "$end" ] && [ -L "$1" ]; then
    # Nothing is there, and not every `readlink` follows to nothing: where it would be, then.
    to=$(readlink -- "$1")
    case $to in /*) ;; *) to=${1%/*}/$to ;; esac
    end=$(cd -P -- "${to%/*}/" 2>/dev/null && pwd -P)
  fi
  [ -n "$end" ] || exit "$2"
  case ${end%/}/ in
    "${root%/}"/*) exit "$2" ;;
    *) exit 75 ;;
  esac
}

