//! What becomes of the agent and of what it says, over a good connection.

use std::time::Duration;

use runwarden::daemon::{ExecOptions, Limits, exec};
use serde_json::json;

use crate::server::Server;
use crate::support::{Place, eventually, quick, run_id, says};

#[actix_web::test]
async fn every_message_arrives_once_in_order_and_the_last_one_has_the_end_sha() {
    let place = Place::new();
    let head = place.repository();
    let server = Server::start(run_id());
    let (options, _switch) = place.options(&server.url, &says(500));
    let outcome = exec(options).await.unwrap();

    assert_eq!((outcome.exit_code, outcome.resumed), (0, false));
    let state = server.state();
    assert_eq!(state.numbers(), (0..500).collect::<Vec<_>>());
    assert_eq!(state.last_message(), json!({ "type": "result", "subtype": "success", "is_error": false }));
    assert_eq!(state.events.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), {
        (0..i64::try_from(state.events.len()).unwrap()).collect::<Vec<_>>()
    });
    let (last, others) = state.events.split_last().unwrap();
    assert_eq!(last.end_sha.as_ref().unwrap().as_str(), head);
    assert!(others.iter().all(|event| event.end_sha.is_none() && event.messages.len() <= 3));
    assert_eq!(outcome.deliveries.acknowledged, state.events.len() as u64);
    assert_eq!((state.posts, state.duplicates), (0, 0));
}

#[actix_web::test]
async fn a_result_is_held_back_until_the_agent_has_ended() {
    let place = Place::new();
    let server = Server::start(run_id());
    let script = "echo '{\"type\":\"result\",\"turn\":1}'; echo '{\"type\":\"assistant\",\"n\":1}'
        echo '{\"type\":\"result\",\"turn\":2,\"is_error\":true}'; echo '{\"type\":\"assistant\",\"n\":2}'
        echo not json
        while [ ! -e \"$1/go\" ]; do sleep 0.02; done; exit 4";
    let (options, _switch) = place.options(&server.url, script);
    let go = async {
        eventually("the agent's words", || server.state().messages().len() == 4).await;
        assert!(!server.state().terminal);
        std::fs::write(place.path("go"), "").unwrap();
    };
    let (outcome, ()) = tokio::join!(exec(options), go);
    assert_eq!(outcome.unwrap().exit_code, 4);
    let said: Vec<_> = server.state().messages().into_iter().map(serde_json::Value::Object).collect();
    assert_eq!(
        said,
        [
            json!({ "type": "assistant", "n": 1 }),
            json!({ "type": "system", "subtype": "superseded-terminal", "message": { "type": "result", "turn": 1 } }),
            json!({ "type": "assistant", "n": 2 }),
            json!({ "type": "system", "subtype": "agent-output", "text": "not json" }),
            json!({ "type": "result", "turn": 2, "is_error": true }),
        ]
    );
}

#[actix_web::test]
async fn a_crash_is_reported_with_code_and_last_words() {
    let place = Place::new();
    let server = Server::start(run_id());
    let (options, _switch) = place.options(&server.url, "echo first >&2; echo boom >&2; exit 3");
    assert_eq!(exec(options).await.unwrap().exit_code, 3);
    let last = server.state().last_message();
    assert_eq!((&last["type"], &last["exit_code"]), (&json!("custom-error"), &json!(3)));
    assert_eq!(last["stderr_tail"], json!(["first", "boom"]));
}

#[actix_web::test]
async fn a_signal_is_reported_by_its_name() {
    let place = Place::new();
    let server = Server::start(run_id());
    let (options, _switch) = place.options(&server.url, "kill -9 $$");
    assert_eq!(exec(options).await.unwrap().exit_code, 137);
    let last = server.state().last_message();
    assert_eq!((&last["type"], &last["signal"]), (&json!("custom-error"), &json!("SIGKILL")));
}

#[actix_web::test]
async fn a_program_that_is_not_there_ends_the_run() {
    let place = Place::new();
    let server = Server::start(run_id());
    let (options, _switch) = place.options(&server.url, "");
    let options = ExecOptions { command: vec!["/no/such/agent".into()], ..options };
    assert_eq!(exec(options).await.unwrap().exit_code, 127);
    assert_eq!(server.state().last_message()["type"], "custom-error");
}

#[actix_web::test]
async fn a_stop_ends_the_agent_and_what_it_started() {
    let place = Place::new();
    let server = Server::start(run_id());
    // The child of the agent does not listen to SIGTERM.
    let script = "sh -c 'trap \"\" TERM; echo $$ > \"$1/child\"; while :; do sleep 0.05; done' c \"$1\" >/dev/null &
        echo '{\"type\":\"assistant\",\"n\":0}'; wait";
    let (options, switch) = place.options(&server.url, script);
    let stop = async {
        eventually("the agent's child", || place.path("child").exists() && !server.state().events.is_empty()).await;
        switch.request();
    };
    let (outcome, ()) = tokio::join!(exec(options), stop);
    assert_eq!(outcome.unwrap().exit_code, 143);
    assert_eq!(server.state().last_message()["type"], "custom-stop");
    let child = std::fs::read_to_string(place.path("child")).unwrap();
    eventually("the child's end", || !lives(child.trim())).await;
}

#[actix_web::test]
async fn an_agent_that_does_not_listen_is_killed() {
    for by_second_request in [false, true] {
        let place = Place::new();
        let server = Server::start(run_id());
        let script = "trap '' TERM; echo '{\"type\":\"assistant\",\"n\":0}'; while :; do sleep 0.05; done";
        let (options, switch) = place.options(&server.url, script);
        let kill_grace = if by_second_request { Duration::from_mins(10) } else { Duration::from_millis(50) };
        let options = ExecOptions { limits: Limits { kill_grace, ..quick() }, ..options };
        let stop = async {
            eventually("the agent's first word", || !server.state().events.is_empty()).await;
            switch.request();
            if by_second_request {
                switch.request();
            }
        };
        let (outcome, ()) = tokio::join!(exec(options), stop);
        assert_eq!(outcome.unwrap().exit_code, 137);
        assert_eq!(server.state().last_message()["type"], "custom-stop");
    }
}

#[actix_web::test]
async fn a_process_left_behind_does_not_keep_the_run_open() {
    let place = Place::new();
    let server = Server::start(run_id());
    let script = "echo '{\"type\":\"assistant\",\"n\":0}'; (while [ -e \"$1\" ]; do echo more; sleep 0.01; done) &";
    let (options, _switch) = place.options(&server.url, script);
    let options = ExecOptions { limits: Limits { output_grace: Duration::from_millis(100), ..quick() }, ..options };
    assert_eq!(exec(options).await.unwrap().exit_code, 0);
    assert_eq!(server.state().numbers(), [0]);
    assert_eq!(server.state().last_message()["type"], "result");
}

#[actix_web::test]
async fn the_token_is_not_handed_to_the_agent() {
    let place = Place::new();
    let server = Server::start(run_id());
    let script = format!("echo \"token=[${}]\"", runwarden::daemon::cli::TOKEN_ENV);
    let (options, _switch) = place.options(&server.url, &script);
    exec(options).await.unwrap();
    assert_eq!(server.state().messages()[0]["text"], "token=[]");
}

#[actix_web::test]
async fn a_long_line_is_cut_with_a_mark() {
    let place = Place::new();
    let server = Server::start(run_id());
    let (options, _switch) = place.options(&server.url, "head -c 3000 /dev/zero | tr '\\0' x; echo; echo after");
    let options = ExecOptions { limits: Limits { line_bytes: 1000, ..quick() }, ..options };
    exec(options).await.unwrap();
    let said = server.state().messages();
    assert_eq!(said[0]["text"].as_str().unwrap().len(), 1000);
    assert_eq!((&said[0]["cutBytes"], &said[1]["text"]), (&json!(2000), &json!("after")));
}

pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
