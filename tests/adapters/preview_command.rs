//! What every provider's previews are asked for.

use runwarden_actors::contract::{PreviewConfig, RunId};
use runwarden_actors::ports::{CommandReport, CommandState, PreviewCommand};

/// What is said of a command that is not there.
pub const NEVER: CommandReport =
    CommandReport { state: CommandState::Exited { exit_code: None }, output_tail: String::new() };

pub fn run(n: u8) -> RunId {
    RunId::parse(&format!("01890000-0000-7000-8000-0000000000{n:02x}")).unwrap()
}

pub fn config(port: u16, command: &str) -> PreviewConfig {
    let json = serde_json::json!({"schemaVersion": 1, "command": command, "port": port, "healthPath": "/",
        "requiresWebsocket": false});
    PreviewConfig::parse(json.to_string().as_bytes()).unwrap()
}

pub fn command(n: u8, port: u16, text: &str) -> PreviewCommand {
    PreviewCommand { run_id: run(n), config: config(port, text) }
}

/// A port of this host that nobody has.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
