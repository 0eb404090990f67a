# $1 is the repository's folder. Prints a line for each thing that a preview needs and the sandbox lacks.
for tool in cat dd head mkdir mv readlink rm sleep tail tr; do
  command -v "$tool" >/dev/null 2>&1 || echo "$tool"
done
[ -r /proc/self/environ ] || echo '/proc'
[ -d /tmp ] && [ -w /tmp ] || echo 'a writable /tmp'
[ -d "$1" ] && [ -x "$1" ] || echo "the folder $1"
