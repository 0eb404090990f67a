//! A stand-in for Daytona: the routes, answers and errors of its API that are used here. Commands are really run, on
//! this host, by a shell or, for an old sandbox, in the way of older toolboxes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use serde_json::{Value, json};

pub const KEY: &str = "dtn_a-key-that-nobody-may-see";
pub const TOKEN: &str = "a-token-that-nobody-may-see";

/// An answer in the place of the right one.
#[derive(Clone)]
pub struct Fault {
    pub status: u16,
    /// More header lines.
    pub headers: &'static str,
    pub body: String,
    /// How often.
    pub times: usize,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    preview_url: Option<String>,
    life: Option<String>,
    asked: Vec<String>,
}

pub struct Daytona {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Daytona {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let daytona = Self { url: format!("{origin}/api"), state: Arc::clone(&state) };
        spawn(move || {
            for stream in listener.incoming() {
                let (stream, state, origin) = (stream.unwrap(), Arc::clone(&state), origin.clone());
                spawn(move || serve(stream, &state, &origin));
            }
        });
        daytona
    }

    pub fn fail(&self, fault: Option<Fault>) {
        self.state.lock().unwrap().fault = fault;
    }

    pub fn set_preview_url(&self, url: &str) {
        self.state.lock().unwrap().preview_url = Some(url.to_owned());
    }

    pub fn set_state(&self, state: &str) {
        self.state.lock().unwrap().life = Some(state.to_owned());
    }

    /// The request lines since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, origin: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length, mut authorized, mut organization) = (String::new(), 0, false, false);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorized = value == format!("Bearer {KEY}"),
            "x-daytona-organization-id" => organization = value == "org-1",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let words: Vec<&str> = first.split_whitespace().collect();
    let (status, headers, body) = {
        let mut state = state.lock().unwrap();
        state.asked.push(format!("{} {}", words[0], words[1]));
        match &mut state.fault {
            Some(fault) if fault.times > 0 => {
                fault.times -= 1;
                (fault.status, fault.headers, fault.body.clone())
            }
            // The real one repeats neither; this one does, to see that nobody passes it on.
            _ if !authorized || !organization => (401, "", json!({"message": format!("not {KEY}")}).to_string()),
            _ => {
                let (preview, sandbox) = (state.preview_url.clone(), state.life.clone());
                drop(state);
                let (status, json) = answer(words[0], words[1], &body, origin, preview, sandbox);
                (status, "", json.to_string())
            }
        }
    };
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn answer(
    method: &str,
    path: &str,
    body: &[u8],
    origin: &str,
    preview: Option<String>,
    state: Option<String>,
) -> (u16, Value) {
    let state = state.unwrap_or_else(|| "started".to_owned());
    let lost = || (404, json!({"statusCode": 404, "message": "Sandbox not found"}));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["api", "sandbox", "sb-new"]) => {
            (200, json!({"id": "sb-new", "state": state, "toolboxProxyUrl": format!("{origin}/toolbox")}))
        }
        ("GET", ["api", "sandbox", "sb-old"]) => (200, json!({"id": "sb-old", "state": state})),
        ("GET", ["api", "sandbox", id @ ("sb-new" | "sb-old"), "ports", port, "preview-url"]) => {
            let url = preview.unwrap_or_else(|| format!("https://{port}-{id}.preview.example.net"));
            (200, json!({"sandboxId": id, "url": url, "token": TOKEN}))
        }
        ("POST", ["toolbox", "sb-new", "process", "execute"]) if state == "started" => {
            let command: Value = serde_json::from_slice(body).unwrap();
            execute("exitCode", Command::new("sh").arg("-c").arg(command["command"].as_str().unwrap()))
        }
        ("POST", ["api", "toolbox", "sb-old", "toolbox", "process", "execute"]) if state == "started" => {
            let command: Value = serde_json::from_slice(body).unwrap();
            let words = split(command["command"].as_str().unwrap());
            execute("code", Command::new(&words[0]).args(&words[1..]))
        }
        ("POST", [.., "process", "execute"]) => (502, json!({"message": "no IP address found"})),
        _ => lost(),
    }
}

fn execute(code: &str, command: &mut Command) -> (u16, Value) {
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (200, json!({code: output.status.code().unwrap_or(-1), "result": String::from_utf8_lossy(&text)}))
}

/// At spaces; quotes of either kind keep them, and nothing is escaped.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(std::mem::take(&mut word)),
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}
