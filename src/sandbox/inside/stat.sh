# A link is shown as one. The workspace itself is `.`.
parent=${2%/*} name=${2##*/}
[ "$parent" != "$2" ] || parent=.
[ -d "./$parent" ] || wrong "./$parent" 72
cd -P -- "./$parent" || exit 77
stay_inside
[ -e "./$name" ] || [ -L "./$name" ] || exit 72
show "$name" || exit 77
