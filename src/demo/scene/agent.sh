#!/bin/sh
# The agent of `runwarden demo`: works on a small web app in a Git repository, and prints one JSON message a line, as
# coding agents do. What it edits, shows and commits is real.
#
# usage: agent.sh REPOSITORY JOURNAL
#
# Every message has a number `n`. The same line goes to the journal first: that is what the demo compares with the
# server's record in the end, so nothing else may write there.
set -eu
cd "$1"
exec 3>>"$2"
n=0
call=0

say() { # TYPE, the other fields as JSON
    n=$((n + 1))
    line="{\"type\":\"$1\",\"n\":$n,$2}"
    printf '%s\n' "$line" >&3
    printf '%s\n' "$line"
    # Where sleep knows whole seconds only, there is no pause.
    sleep 0.03 2>/dev/null || :
}

json() { # text as the inside of a JSON string
    printf '%s\n' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | {
        text='' between=''
        while IFS= read -r line; do
            text=$text$between$line
            between='\n'
        done
        printf '%s' "$text"
    }
}

assistant() { # text
    say assistant "\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"$(json "$1")\"}]}"
}

tool() { # name, input as JSON
    call=$((call + 1))
    say assistant "\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"call_$call\",\"name\":\"$1\",\"input\":$2}]}"
}

answer() { # what the tool gave back
    say user "\"message\":{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"call_$call\",\"content\":\"$(json "$1")\"}]}"
}

run() { # a command, run for real
    tool Bash "{\"command\":\"$(json "$*")\"}"
    printed=$("$@" 2>&1) || {
        printf '%s\n' "$printed" >&2
        exit 1
    }
    answer "$printed"
}

insert() { # file, line: before the mark
    while IFS= read -r line; do
        case $line in
        *'<!-- next -->'* | *'/* next */'* | *'// next'*) printf '%s\n' "$2" ;;
        esac
        printf '%s\n' "$line"
    done <"$1" >"$1.new"
    mv "$1.new" "$1"
}

edit() { # file, line
    assistant "Next line of $1: $2"
    tool Edit "{\"file_path\":\"$(json "$1")\",\"new_string\":\"$(json "$2")\"}"
    insert "$1" "$2"
    answer "The file $1 has been updated."
    run git --no-pager diff --stat
}

say system '"subtype":"init","tools":["Bash","Edit"],"cwd":"."'
assistant 'I look at what is there, then make the tea timer count, look better, and remember.'
run ls
run git --no-pager log --oneline

commits=0
while IFS='|' read -r what text; do
    case $what in
    commit)
        assistant "This is a step of its own: $text."
        run git commit --all --message "$text"
        commits=$((commits + 1))
        ;;
    *) edit "$what" "$text" ;;
    esac
done <<'PLAN'
styles.css|:root {
styles.css|  --leaf: #2f6f4f;
styles.css|  --paper: #fbf8f1;
styles.css|}
styles.css|body { background: var(--paper); color: #222; }
styles.css|h1 { color: var(--leaf); }
styles.css|#teas { display: flex; gap: 0.5rem; list-style: none; padding: 0; }
commit|Give the page the colours of tea
styles.css|button {
styles.css|  background: var(--leaf);
styles.css|  border: 0;
styles.css|  border-radius: 0.5rem;
styles.css|  color: white;
styles.css|  padding: 0.75rem 1rem;
styles.css|}
styles.css|button:focus-visible { outline: 3px solid orange; }
commit|Make the buttons large enough for a thumb
app.js|let timer;
app.js|function show(name, seconds) {
app.js|  const rest = String(seconds % 60).padStart(2, "0");
app.js|  left.textContent = `${name}: ${Math.floor(seconds / 60)}:${rest}`;
app.js|}
app.js|function count(name, until) {
app.js|  const seconds = Math.max(0, Math.round((until - Date.now()) / 1000));
app.js|  show(name, seconds);
app.js|  if (seconds === 0) finish(name);
app.js|}
commit|Show minutes and seconds
app.js|function finish(name) {
app.js|  clearInterval(timer);
app.js|  left.textContent = `${name} tea is ready.`;
app.js|  document.title = "Ready!";
app.js|}
app.js|list.addEventListener("click", (event) => {
app.js|  const name = event.target.textContent;
app.js|  if (!teas.has(name)) return;
app.js|  const until = Date.now() + teas.get(name) * 1000;
app.js|  clearInterval(timer);
app.js|  timer = setInterval(() => count(name, until), 250);
app.js|});
commit|Count down, and say when the tea is ready
index.html|    <form id="own">
index.html|      <label>Own time in seconds <input name="seconds" type="number" min="1"></label>
index.html|      <button>Brew</button>
index.html|    </form>
app.js|document.getElementById("own").addEventListener("submit", (event) => {
app.js|  event.preventDefault();
app.js|  teas.set("My", Number(new FormData(event.target).get("seconds")));
app.js|  const until = Date.now() + teas.get("My") * 1000;
app.js|  clearInterval(timer);
app.js|  timer = setInterval(() => count("My", until), 250);
app.js|});
commit|Let people brew for as long as they like
styles.css|@media (prefers-color-scheme: dark) {
styles.css|  :root { --paper: #1b1f1c; --leaf: #4fa37a; }
styles.css|  body { color: #eee; }
styles.css|}
index.html|    <footer><small>Water just below the boil for green tea.</small></footer>
commit|Respect the dark, and give advice
PLAN

run git status --short --branch
assistant "Done: $commits commits."
say result "\"subtype\":\"success\",\"is_error\":false,\"num_turns\":$call,\"result\":\"The tea timer counts down. $commits commits.\""
