//! Daemons that are killed and started again.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::{Args, FromArgMatches};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runwarden::daemon::cli::{self, ExecArgs};
use runwarden::daemon::exec;
use runwarden::demo::link::{FaultPlan, FaultyLink};
use runwarden_actors::contract::{DaemonEnvelope, EventId, Seq, ThreadChatId, ThreadId};
use serde_json::Map;

use crate::agent::lives;
use crate::server::{Server, TOKEN};
use crate::support::{Place, eventually, run_id, says};

const CHILD_FOLDER: &str = "RUNWARDEN_TEST_DAEMON_FOLDER";
const CHILD_URL: &str = "RUNWARDEN_TEST_DAEMON_URL";

/// Says numbers, slowly enough to be met in the middle, and never ends.
const TALKS_ON: &str = "echo $$ > \"$1/agent\"; i=0
    while [ -e \"$1\" ]; do echo '{\"type\":\"assistant\",\"n\":'$i'}'; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.05; done";

/// Not a test by itself: the tests below start this very program again with this name to have a daemon of their own
/// process that can be killed.
#[actix_web::test]
async fn as_a_process_of_its_own() {
    let (Some(folder), Ok(url)) = (std::env::var_os(CHILD_FOLDER), std::env::var(CHILD_URL)) else { return };
    let place = Place::new();
    let (mut options, _switch) = place.options(&url, TALKS_ON);
    options.spool = Path::new(&folder).join("run.spool");
    *options.command.last_mut().unwrap() = folder;
    exec(options).await.unwrap();
}

/// The same, as the command line starts it.
#[actix_web::test]
async fn as_a_process_of_the_command_line() {
    let (Some(folder), Ok(url)) = (std::env::var_os(CHILD_FOLDER), std::env::var(CHILD_URL)) else { return };
    let arguments = ["--server", &url, "--thread", "thread", "--chat", "chat", "--run", &run_id().to_string()]
        .map(OsString::from)
        .into_iter()
        .chain(["--spool".into(), folder.clone(), "--repo".into(), folder.clone()])
        .chain(["--".into(), "sh".into(), "-c".into(), TALKS_ON.into(), "agent".into(), folder]);
    let command = ExecArgs::augment_args(clap::Command::new("exec").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap();
    let args = ExecArgs::from_arg_matches(&matches).unwrap();
    assert_eq!(cli::run(args).await.unwrap(), 143);
}

fn start_process(place: &Place, url: &str, name: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("restarts::{name}"), "--exact"])
        .env(CHILD_FOLDER, place.folder.path())
        .env(CHILD_URL, url)
        .env(cli::TOKEN_ENV, TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[actix_web::test]
async fn a_termination_of_the_process_stops_the_agent_and_the_run() {
    let place = Place::new();
    let server = Server::start(run_id());
    let mut process = start_process(&place, &server.url, "as_a_process_of_the_command_line");
    eventually("some events", || !server.state().events.is_empty()).await;
    kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGTERM).unwrap();
    let mut status = None;
    eventually("the daemon's end", || {
        status = process.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success(), "the daemon's exit code was not that of the agent");
    let state = server.state();
    assert_eq!(state.last_message()["type"], "custom-stop");
    assert_eq!(state.numbers(), (0..state.numbers().len() as u64).collect::<Vec<_>>());
    let agent = std::fs::read_to_string(place.path("agent")).unwrap();
    assert!(!lives(agent.trim()));
}

#[actix_web::test]
async fn a_daemon_killed_in_the_middle_loses_nothing_that_it_had_taken() {
    for (seed, kill_after) in [(1, 1), (2, 17), (3, 60)] {
        let place = Place::new();
        let server = Server::start(run_id());
        let link = FaultyLink::start(&server.url, FaultPlan::nasty(seed)).unwrap();
        let mut process = start_process(&place, link.url(), "as_a_process_of_its_own");
        eventually("some events", || server.state().events.len() >= kill_after).await;
        process.kill().unwrap();
        process.wait().unwrap();

        let (options, _switch) = place.options(link.url(), "touch \"$1/started-again\"");
        let outcome = exec(options.clone()).await.unwrap();
        assert_eq!((outcome.exit_code, outcome.resumed), (70, true));
        let agent = std::fs::read_to_string(place.path("agent")).unwrap();
        eventually("the end of the agent that was left behind", || !lives(agent.trim())).await;

        {
            let state = server.state();
            let numbers = state.numbers();
            assert!(numbers.len() >= kill_after, "seed {seed}");
            assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(state.late_gaps, [] as [i64; 0], "seed {seed}");
            assert_eq!(state.last_message()["error_info"], "daemon restarted; the agent is gone");
        }
        assert!(!place.path("started-again").exists());

        // Once more: the run is closed, and nothing happens.
        let before = server.state().events.len();
        let outcome = exec(options).await.unwrap();
        assert_eq!((outcome.exit_code, outcome.resumed, outcome.deliveries.acknowledged), (70, true, 0));
        assert_eq!(server.state().events.len(), before);
        link.stop().await;
    }
}

#[actix_web::test]
async fn a_daemon_dropped_while_delivering_goes_on_with_the_terminal_it_has_spooled() {
    let place = Place::new();
    let server = Server::start(run_id());
    {
        let mut state = server.state();
        state.stream = crate::server::Stream::Refused(501);
        state.http_down = Some(503);
    }
    let (options, _switch) = place.options(&server.url, &format!("{}; exit 5", says(40)));
    let spooled = eventually("the terminal envelope in the spool", || {
        std::fs::read(place.spool()).is_ok_and(|bytes| bytes.windows(12).any(|window| window == b"custom-error"))
    });
    tokio::select! {
        outcome = exec(options.clone()) => panic!("{outcome:?}"),
        () = spooled => {}
    }
    server.state().http_down = None;
    let outcome = exec(options).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.resumed), (5, true));
    let state = server.state();
    assert_eq!(state.numbers(), (0..40).collect::<Vec<_>>());
    assert_eq!(
        (state.last_message()["type"].as_str(), state.last_message()["exit_code"].as_i64()),
        (Some("custom-error"), Some(5))
    );
}

#[actix_web::test]
async fn a_new_spool_goes_on_after_what_the_server_has() {
    let place = Place::new();
    let server = Server::start(run_id());
    {
        let mut state = server.state();
        state.last_seq = Some(7);
        state.events.push(DaemonEnvelope {
            thread_id: ThreadId::parse("thread").unwrap(),
            thread_chat_id: ThreadChatId::parse("chat").unwrap(),
            messages: Vec::new(),
            timezone: "UTC".to_owned(),
            payload_version: 2,
            event_id: EventId::parse("of-an-earlier-spool").unwrap(),
            run_id: run_id(),
            seq: Seq::new(7).unwrap(),
            end_sha: None,
            extra: Map::new(),
        });
    }
    let (options, _switch) = place.options(&server.url, &says(5));
    exec(options).await.unwrap();
    let state = server.state();
    assert_eq!(state.events[1].seq.get(), 8);
    assert_eq!(state.numbers(), (0..5).collect::<Vec<_>>());
}
