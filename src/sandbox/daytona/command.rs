//! A command as Daytona's toolbox runs it: one line in and one text out, so both are wrapped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sandbox::inside::{ExecAnswer, ExecCall};

/// The line for the toolbox. It prints three lines: the exit code, standard output and the beginning of standard
/// error, both in base64, because the toolbox would mix them and mangle bytes that are no text. What goes over the
/// bound ends the command.
///
/// Older toolboxes split the line at spaces and know quotes but no escapes, newer ones give it to a shell; this form
/// means the same to both.
pub(super) fn line(call: &ExecCall<'_>) -> String {
    let mut command: Vec<String> = call.env.iter().map(|pair| export(pair)).collect();
    command.push(call.argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    // The command must not keep the pipe of its own complaints: what it leaves in the background would hold it.
    let script = format!(
        "folder=$(mktemp -d) || exit 1\n\
         trap 'rm -rf \"$folder\"' EXIT\n\
         {{ {{ ( {command} ) 2>&3 3>&- </dev/null; echo $? >\"$folder/code\"; }} | head -c {stdout} >\"$folder/out\"; }} \
         3>&1 | {{ head -c {stderr} >\"$folder/err\"; cat >/dev/null; }}\n\
         cat \"$folder/code\" || echo -1\n\
         for part in out err; do base64 <\"$folder/$part\" | tr -d '\\n'; echo; done\n",
        command = command.join("; "),
        stdout = call.limits.stdout_bytes + 1,
        stderr = call.limits.stderr_bytes,
    );
    format!("sh -c 'eval \"$(echo {}|base64 -d)\"'", STANDARD.encode(script))
}

/// Reads the three lines; `None` where they are something else.
pub(super) fn answer(text: &str) -> Option<ExecAnswer> {
    let mut lines = text.lines();
    let exit_code = lines.next()?.trim().parse().ok()?;
    let mut part = || STANDARD.decode(lines.next()?.trim()).ok();
    Some(ExecAnswer { exit_code, stdout: part()?, stderr: part()? })
}

fn export(pair: &str) -> String {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    format!("export {name}={}", quote(value))
}

/// One word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sandbox::inside::ExecLimits;

    fn run(call: &ExecCall<'_>) -> ExecAnswer {
        let output = Command::new("sh").arg("-c").arg(line(call)).output().unwrap();
        answer(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
    }

    #[test]
    fn words_bytes_and_codes_come_through() {
        let call = ExecCall {
            env: &["A=it's \"$HOME\""],
            ..ExecCall::script(
                "t",
                r#"printf '%s|' "$A" "$@"; printf '\377\0'; echo no >&2; exit 7"#,
                &["a b", "'", ""],
            )
        };
        let answer = run(&call);
        assert_eq!(answer.stdout, [&b"it's \"$HOME\"|a b|'||"[..], &[0xff, 0]].concat());
        assert_eq!((answer.exit_code, answer.stderr), (7, b"no\n".to_vec()));
        assert_eq!(run(&ExecCall::new("t", vec!["no-such-program"])).exit_code, 127);
    }

    #[test]
    fn output_is_bounded_and_what_goes_on_is_not_waited_for() {
        let limits = ExecLimits { stdout_bytes: 1000, stderr_bytes: 10, ..ExecLimits::default() };
        let endless = run(&ExecCall { limits, ..ExecCall::script("t", "yes no | head -c 100000 >&2; exec yes", &[]) });
        assert_eq!((endless.stdout.len(), endless.stderr.len()), (1001, 10));
        let started = std::time::Instant::now();
        run(&ExecCall::script("t", "sleep 20 </dev/null >/dev/null 2>&1 &", &[]));
        assert!(started.elapsed().as_secs() < 10);
    }

    #[test]
    fn another_text_is_no_answer() {
        for text in ["", "0", "0\n\n", "x\n\n\n", "0\n!\n\n"] {
            assert!(answer(text).is_none(), "{text:?}");
        }
    }
}
