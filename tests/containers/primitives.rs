//! The primitives below previews: a container from its making to its end, and commands in it.

use serde_json::{Value, json};

use crate::app::{Db, Options, block_on};
use crate::docker::{IMAGE, NETWORK};
use crate::world::{Place, World};

pub fn options() -> Options {
    Options::new(Db::Sqlite).set("CONTAINER_IMAGE", IMAGE).set("CONTAINER_NETWORK", NETWORK)
}

/// A world with a container that runs, made through the routes; its session's id.
pub async fn started(prefix: &'static str) -> (World, String) {
    let world = World::with(prefix, options()).await;
    let id = world.id("s");
    let path = format!("/api/internal/sessions/{id}");
    let (status, body) = world.server.post(&path, json!({})).await;
    assert_eq!(status, 201, "{body}");
    let (status, body) = world.start(&id).await;
    assert_eq!((status, &body["running"]), (200, &true.into()), "{body}");
    (world, id)
}

#[test]
fn a_container_is_created_started_stopped_and_removed() {
    block_on(async {
        let world = World::with("life", options()).await;
        let id = world.id("s");
        let path = format!("/api/internal/sessions/{id}");
        assert_eq!(world.server.get(&path).await.0, 404);
        let wanted = json!({"memoryBytes": 67_108_864, "cpuMillis": 500, "pids": 40, "env": {"APP": "a b"}});
        let (status, body) = world.server.post(&path, wanted).await;
        assert_eq!(status, 201, "{body}");
        assert_eq!((&body["name"], &body["state"]), (&format!("sandbox-session-{id}").into(), &"created".into()));
        assert_eq!(
            (&body["managed"], &body["running"], &body["previewPort"]),
            (&true.into(), &false.into(), &Value::Null)
        );
        let (status, body) = world.server.post(&path, json!({})).await;
        assert_eq!((status, &body["code"]), (409, &"conflict".into()), "{body}");

        let found = world.docker.inspect_container(&world.container("s"), None).await.unwrap();
        assert_eq!(found.config.unwrap().labels.unwrap()["runwarden.session"], id);
        let host = found.host_config.unwrap();
        assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(67_108_864), Some(500_000_000), Some(40)));
        assert_eq!((host.readonly_rootfs, host.privileged), (Some(true), Some(false)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert!(host.security_opt.unwrap().iter().any(|option| option.starts_with("no-new-privileges")));
        let volume = found.mounts.unwrap().into_iter().find_map(|mount| mount.name).unwrap();

        assert_eq!(world.server.get(&path).await.1["startedAt"], Value::Null, "it was never started");
        let (status, body) = world.start(&id).await;
        assert_eq!((status, &body["state"]), (200, &"running".into()), "{body}");
        assert!(body["startedAt"].as_str().is_some_and(|time| time.starts_with("20")), "{body}");
        assert!(body["address"].as_str().is_some_and(|address| address.starts_with("10.")), "{body}");
        assert_eq!(world.start(&id).await.0, 200, "once more");
        let seen = world.exec(&id, json!({"command": ["sh", "-c", "echo $APP >kept; cat kept"]})).await.1;
        assert_eq!(seen["stdout"], "a b\n", "{seen}");

        // What a command leaves in the background, as an app is started, outlives it.
        let app = "sleep 600 >/dev/null 2>&1 </dev/null & echo $!";
        let seen = world.exec(&id, json!({"command": ["sh", "-c", app]})).await.1;
        assert_eq!(seen["exitCode"], 0, "{seen}");
        let alive = format!("kill -0 {}", seen["stdout"].as_str().unwrap().trim());
        let seen = world.exec(&id, json!({"command": ["sh", "-c", alive]})).await.1;
        assert_eq!(seen["exitCode"], 0, "{seen}");

        // It ends when it is asked to: long before the grace is over.
        let began = std::time::Instant::now();
        let stop = format!("{path}/stop");
        let (status, body) = world.server.internal(reqwest::Method::POST, &stop, None).await;
        assert_eq!((status, &body["state"], &body["running"]), (200, &"exited".into(), &false.into()), "{body}");
        assert!(began.elapsed().as_secs() < 8);
        assert_eq!(world.server.post(&stop, json!({"graceSeconds": 0})).await.0, 200, "once more");
        let (status, body) = world.exec(&id, json!({"command": ["true"]})).await;
        assert_eq!((status, &body["code"]), (409, &"conflict".into()), "{body}");

        assert_eq!(world.start(&id).await.0, 200);
        let seen = world.exec(&id, json!({"command": ["cat", "kept"]})).await.1;
        assert_eq!(seen["stdout"], "a b\n", "the workspace outlives a stop");
        assert_eq!(world.server.internal(reqwest::Method::DELETE, &path, None).await.0, 204);
        assert_eq!(world.server.get(&path).await.0, 404);
        assert_eq!(world.server.internal(reqwest::Method::DELETE, &path, None).await.0, 404);
        assert!(world.docker.inspect_volume(&volume).await.is_err(), "the workspace goes with its container");
    });
}

#[test]
fn nobody_gets_more_than_the_operator_allows() {
    block_on(async {
        let options = options().set("CONTAINER_MEMORY_MAX_BYTES", "134217728").set("CONTAINER_PIDS_MAX", "50");
        let world = World::with("more", options).await;
        let path = format!("/api/internal/sessions/{}", world.id("s"));
        for (wanted, word) in [
            (json!({"memoryBytes": 134_217_729}), "memoryBytes"),
            (json!({"cpuMillis": 2001}), "cpuMillis"),
            (json!({"pids": 51}), "pids"),
            (json!({"pids": 0}), "pids"),
            (json!({"readOnlyRoot": false}), "readOnlyRoot"),
            (json!({"privileged": true}), "privileged"),
            (json!({"image": "none-such:latest"}), "none-such"),
            (json!({"image": ""}), "image"),
            (json!({"env": {"A=B": "c"}}), "env"),
            (json!({"command": ["a\u{0}"]}), "command"),
        ] {
            let (status, body) = world.server.post(&path, wanted.clone()).await;
            let message = body["message"].as_str().unwrap();
            assert!(status == 400 && message.contains(word), "{wanted}: {status} {body}");
        }
        assert_eq!(world.server.get(&path).await.0, 404, "nothing of it was created");
        assert_eq!(world.server.post(&path, json!({})).await.0, 201);
        let host = world.docker.inspect_container(&world.container("s"), None).await.unwrap().host_config.unwrap();
        assert_eq!((host.memory, host.pids_limit, host.nano_cpus), (Some(134_217_728), Some(50), Some(2_000_000_000)));
    });
}

#[test]
fn every_route_of_a_session_asks_for_the_key() {
    block_on(async {
        let world = World::new("key").await;
        let id = world.idle("s", Place::Nowhere).await;
        for (method, rest) in [
            ("POST", ""),
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/start"),
            ("POST", "/stop"),
            ("POST", "/exec"),
            ("GET", "/files?path=a"),
            ("PUT", "/files?path=a"),
            ("DELETE", "/previews"),
            ("POST", "/previews/api"),
            ("GET", "/preview-health"),
            ("PATCH", "/previews"),
            ("GET", "/none-such"),
        ] {
            let answer = world.send(method, &format!("/api/internal/sessions/{id}{rest}"), "", "{}").await;
            assert_eq!((answer.status, &answer.json()["message"]), (403, &"Forbidden".into()), "{method} {rest}");
        }
        let (status, _) = world.server.get("/api/internal/sessions/..%2Fx").await;
        assert_eq!(status, 404);
    });
}

#[test]
fn a_container_can_do_little_beside_its_workspace() {
    block_on(async {
        let (world, id) = started("little").await;
        let script = "touch /bin/x /etc-x 2>/dev/null && echo wrote the root; echo a >/tmp/a && echo b >b && cat /tmp/a /workspace/b; \
                      while read name value; do case $name in NoNewPrivs:|CapEff:|CapBnd:) echo $name $value;; esac; done </proc/self/status";
        let (_, seen) = world.exec(&id, json!({"command": ["sh", "-c", script]})).await;
        let text = seen["stdout"].as_str().unwrap();
        assert!(text.starts_with("a\nb\n"), "{seen}");
        for line in ["NoNewPrivs: 1", "CapEff: 0000000000000000", "CapBnd: 0000000000000000"] {
            assert!(text.contains(line), "{text}");
        }
    });
}

#[test]
fn a_command_says_how_it_ended_and_what_it_printed() {
    block_on(async {
        let (world, id) = started("exec").await;
        let run = async |body: Value| {
            let (status, answer) = world.exec(&id, body).await;
            assert_eq!(status, 200, "{answer}");
            answer
        };
        let script = "pwd; cat; echo \"$A\" >&2; exit 7";
        let answer = run(json!({"command": ["sh", "-c", script], "env": {"A": "x y"}, "stdin": "given"})).await;
        let expected = json!({"exitCode": 7, "timedOut": false, "stdout": "/workspace\ngiven", "stderr": "x y\n",
                              "stdoutTruncated": false, "stderrTruncated": false});
        assert_eq!(answer, expected);
        let answer = run(json!({"command": ["sh", "-c", "pwd"], "workingDir": "/tmp"})).await;
        assert_eq!(answer["stdout"], "/tmp\n", "{answer}");
        assert_eq!(run(json!({"command": ["sh", "-c", "exit 0"]})).await["exitCode"], 0);
        assert!(matches!(run(json!({"command": ["/none-such"]})).await["exitCode"].as_i64(), Some(126 | 127)));
        let answer = run(json!({"command": ["sh", "-c", "printf '\\377\\000'"], "encoding": "base64"})).await;
        assert_eq!(answer["stdout"], "/wA=");
        // A command that does not read what it is given is no error.
        let answer = run(json!({"command": ["sh", "-c", ":"], "stdin": "x".repeat(200_000)})).await;
        assert_eq!(answer["exitCode"], 0);

        for (body, word) in [
            (json!({}), "command"),
            (json!({"command": []}), "command"),
            (json!({"command": [""]}), "command"),
            (json!({"command": ["true"], "timeoutMs": 0}), "timeoutMs"),
            (json!({"command": ["true"], "timeoutMs": 600_001}), "timeoutMs"),
            (json!({"command": ["true"], "maxOutputBytes": 8_388_609}), "maxOutputBytes"),
            (json!({"command": ["true"], "workingDir": "tmp"}), "workingDir"),
            (json!({"command": ["true"], "user": "root"}), "user"),
        ] {
            let (status, answer) = world.exec(&id, body.clone()).await;
            assert!(status == 400 && answer["message"].as_str().unwrap().contains(word), "{body}: {answer}");
        }
        let (status, answer) = world.exec("nobody", json!({"command": ["true"]})).await;
        assert_eq!((status, &answer["code"]), (404, &"not_found".into()), "{answer}");
    });
}

#[test]
fn output_is_kept_up_to_its_bound_and_the_command_comes_to_its_end() {
    block_on(async {
        let (world, id) = started("output").await;
        let script = "yes | head -c 5000000; yes e | head -c 3000 >&2; exit 3";
        let (_, answer) = world.exec(&id, json!({"command": ["sh", "-c", script], "maxOutputBytes": 1000})).await;
        assert_eq!((&answer["exitCode"], &answer["timedOut"]), (&3.into(), &false.into()));
        assert_eq!(answer["stdout"].as_str().unwrap().len(), 1000);
        assert_eq!(answer["stderr"].as_str().unwrap().len(), 1000);
        assert_eq!((&answer["stdoutTruncated"], &answer["stderrTruncated"]), (&true.into(), &true.into()));
    });
}

#[test]
fn a_command_whose_time_is_over_is_killed_with_all_that_it_started() {
    block_on(async {
        let (world, id) = started("time").await;
        let script = "echo begun; setsid sleep 4711 & (trap '' TERM; sleep 4712); sleep 4713";
        let (status, answer) = world.exec(&id, json!({"command": ["sh", "-c", script], "timeoutMs": 700})).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["exitCode"], &answer["timedOut"]), (&Value::Null, &true.into()));
        assert_eq!(answer["stdout"], "begun\n", "what it printed until then is there");
        let look = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null";
        let (_, left) = world.exec(&id, json!({"command": ["sh", "-c", look]})).await;
        assert!(!left["stdout"].as_str().unwrap().contains("sleep 471"), "{left}");
    });
}
