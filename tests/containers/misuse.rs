//! Requests that are slightly wrong: they are refused in the words of these routes, or mean what they seem to.

use serde_json::json;

use crate::app::{Db, INTERNAL_KEY, Options, block_on};
use crate::world::{APP, Place, World, locked};

#[test]
fn every_error_of_a_registration_has_the_locked_shape() {
    block_on(async {
        let world = World::with("misuse", Options::new(Db::Sqlite).set("CONTAINER_NAMED_PORTS", "on")).await;
        let id = world.idle("s", Place::Nowhere).await;
        let key = format!("X-Internal-Service-Key: {INTERNAL_KEY}\r\n");
        let large = format!("{{\"port\":3000,\"x\":\"{}\"}}", "x".repeat(300_000));
        let port = "Port must be an integer between 1024 and 65535";
        for (rest, body, status, message, error) in [
            ("", "port=3000", 400, "the body is not JSON", "Bad Request"),
            ("", "{\"port\":1e400}", 400, port, "Bad Request"),
            ("", large.as_str(), 413, "the body is larger than", "Payload Too Large"),
            ("/api", "port=3000", 400, "the body is not JSON", "Bad Request"),
            ("/api", "{\"port\":80}", 400, port, "Bad Request"),
            ("/API", "{\"port\":3000}", 400, "name must be 1 to 32", "Bad Request"),
            ("/api", large.as_str(), 413, "the body is larger than", "Payload Too Large"),
        ] {
            let path = format!("/api/internal/sessions/{id}/previews{rest}");
            let answer = world.send("POST", &path, &key, body).await;
            let got = answer.json();
            assert!(got["message"].as_str().is_some_and(|text| text.contains(message)), "{rest}: {got}");
            assert_eq!(
                (answer.status, &got["error"], &got["statusCode"]),
                (status, &error.into(), &status.into()),
                "{rest}: {got}"
            );
        }
    });
}

#[test]
fn escaped_letters_of_an_id_are_the_same_letters_everywhere() {
    block_on(async {
        let options = Options::new(Db::Sqlite).set("CONTAINER_NAMED_PORTS", "on");
        let world = World::with("spelt", options).await;
        let id = world.app("s").await;
        // `spelt-s`, in part escaped.
        let spelling = "%73pelt%2Ds";
        let (status, body) = world.ask_to_register(spelling, json!({"port": APP})).await;
        assert_eq!((status, &body["sessionId"]), (200, &id.as_str().into()), "{body}");
        let path = format!("/api/internal/sessions/{spelling}/previews/%61pi");
        assert_eq!(world.server.post(&path, json!({"port": APP})).await.0, 200);
        for start in [
            format!("/previews/{id}"),
            format!("/previews/{spelling}"),
            format!("/internal-previews/proxy/{spelling}"),
            format!("/preview-ports/{spelling}/%61p%69"),
            format!("/internal-previews/ports/{id}/%61pi"),
        ] {
            // What is behind is not touched.
            let answer = world.ask("GET", &format!("{start}/%61%2e%2F?%61")).await;
            assert_eq!((answer.status, &answer.json()["url"]), (200, &"/%61%2e%2F?%61".into()), "{start}");
            let answer = world.ask("GET", &start).await;
            let location = answer.header("location");
            assert_eq!((answer.status, location), (307, Some(format!("{start}/"))), "{start}");
        }
        for (wrong, shown) in
            [("%73pelt%2Fs", "spelt%2Fs"), ("%2573pelt-s", "%2573pelt-s"), ("spelt-s%00", "spelt-s%00")]
        {
            let answer = world.ask("GET", &format!("/previews/{wrong}/")).await;
            let message = format!("No preview port registered for session {shown}");
            assert_eq!(answer.json(), locked("not_found", 404, &message, "Not Found"));
        }
    });
}

#[test]
fn of_two_keys_none_counts() {
    block_on(async {
        let world = World::new("keys").await;
        let id = world.idle("s", Place::Nowhere).await;
        let line = |key: &str| format!("X-Internal-Service-Key: {key}\r\n");
        let (right, wrong) = (line(INTERNAL_KEY), line("wrong"));
        let path = format!("/api/internal/sessions/{id}");
        assert_eq!(world.send("GET", &path, &right, "").await.status, 200);
        for lines in [right.clone() + &wrong, wrong.clone() + &right, right.clone() + &right] {
            assert_eq!(world.send("GET", &path, &lines, "").await.status, 403, "{lines}");
            assert_eq!(
                world.send("GET", "/api/internal/quarantine?threadId=t", &lines, "").await.status,
                403,
                "{lines}"
            );
        }
    });
}

#[test]
fn a_user_that_cannot_be_is_the_callers_mistake() {
    block_on(async {
        let world = World::with("user", crate::primitives::options()).await;
        let path = format!("/api/internal/sessions/{}", world.id("s"));
        for user in ["nobody; id", "9999999999", "2147483648", "-1", "a:b:c", ":", "", "0:", &"x".repeat(65)] {
            let (status, body) = world.server.post(&path, json!({"user": user})).await;
            assert!(status == 400 && body["message"].as_str().unwrap().starts_with("user must be"), "{user}: {body}");
        }
        for (n, user) in ["nosuch", "0:nosuch"].into_iter().enumerate() {
            let id = world.id(&n.to_string());
            let path = format!("/api/internal/sessions/{id}");
            assert_eq!(world.server.post(&path, json!({"user": user})).await.0, 201);
            let (status, body) = world.start(&id).await;
            assert_eq!((status, &body["code"]), (400, &"invalid_request".into()), "{body}");
            assert!(body["message"].as_str().unwrap().contains("nosuch"), "{body}");
        }
        let id = world.id("fine");
        assert_eq!(
            world.server.post(&format!("/api/internal/sessions/{id}"), json!({"user": "1000:1000"})).await.0,
            201
        );
        assert_eq!(world.start(&id).await.0, 200);
        let script = "while read name id rest; do case $name in Uid:|Gid:) echo $id; esac; done </proc/self/status";
        let (_, answer) = world.exec(&id, json!({"command": ["sh", "-c", script]})).await;
        assert_eq!(answer["stdout"], "1000\n1000\n", "{answer}");
    });
}
