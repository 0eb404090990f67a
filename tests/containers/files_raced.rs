//! Files of a workspace in which somebody else is busy, or whose tools are not what they were.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use serde_json::json;

use crate::app::block_on;
use crate::docker::{IMAGE, programs};
use crate::files::Files;
use crate::primitives::options;
use crate::world::World;

#[test]
fn a_file_is_written_inside_or_not_at_all_whoever_changes_links_meanwhile() {
    block_on(async {
        let files = Files::new("raced").await;
        let race = "mkdir /tmp/out; (while :; do ln -s /tmp/out t; rm -rf t; done) >/dev/null 2>&1 </dev/null &";
        files.sh(race).await;
        for n in 0..30 {
            let (status, body) = files.put("t", format!("body {n}")).await;
            match status {
                200 => {
                    assert_eq!(
                        (&body["kind"], &body["sizeBytes"]),
                        (&"file".into(), &format!("body {n}").len().into())
                    );
                }
                400 => assert_eq!(body["code"], "invalid_request", "{body}"),
                403 => assert_eq!(body["code"], "permission_denied", "{body}"),
                409 => assert_eq!(body["code"], "conflict", "{body}"),
                _ => panic!("{status}: {body}"),
            }
        }
        assert_eq!(files.sh("ls -A /tmp/out").await, "", "nothing lies outside");
    });
}

#[test]
fn a_name_that_is_no_text_is_refused_and_not_changed() {
    block_on(async {
        let files = Files::new("no-text").await;
        for path in ["bad%FE", "bad%ff", "%C3", "a/%80/b"] {
            let (status, body) = files.put(path, "x").await;
            assert_eq!((status, &body["code"]), (400, &"invalid_request".into()), "{path}: {body}");
            for op in ["read", "list", "stat"] {
                assert_eq!(files.json(&format!("path={path}&op={op}")).await.0, 400, "{path} {op}");
            }
        }
        assert_eq!(files.sh("ls -A").await, "");
        assert_eq!(files.put("%C3%A9%EF%BF%BD", "x").await.1["name"], "é\u{fffd}");
        // What a list shows of others, and that it does not open them.
        files.sh("touch \"$(printf 'a\\376')\" \"$(printf 'a\\377')\" \"$(printf 'b\\001')\"").await;
        let (_, body) = files.json("op=list").await;
        let mut names: Vec<_> =
            body["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a\u{fffd}", "a\u{fffd}", "b\u{1}", "é\u{fffd}"]);
        assert_eq!(files.json("path=a%EF%BF%BD&op=stat").await.0, 404);
        assert_eq!(files.json("path=b%01&op=stat").await.0, 400);
    });
}

#[test]
fn a_link_out_of_the_workspace_is_refused_whatever_it_leads_to() {
    block_on(async {
        let files = Files::new("links").await;
        files
            .sh("ln -s /tmp folder; ln -s /dev/null device; ln -s / root; ln -s /tmp/none none; ln -s /etc/passwd file; \
                 mkdir in; ln -s in inside; ln -s in/none nothing")
            .await;
        for (query, status) in [
            ("path=folder", 403),
            ("path=device", 403),
            ("path=root", 403),
            ("path=none", 403),
            ("path=device&op=list", 403),
            ("path=none&op=list", 403),
            ("path=device/x&op=stat", 403),
            ("path=inside", 400),
            ("path=nothing", 404),
            ("path=nothing&op=list", 400),
        ] {
            let (found, body) = files.json(query).await;
            assert_eq!(found, status, "{query}: {body}");
        }
        assert_eq!(files.put("device/x", "x").await.0, 403);
    });
}

#[test]
fn an_operation_that_is_given_up_is_ended() {
    block_on(async {
        let world = World::new("given-up").await;
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "100000".to_owned()]),
            env: Some(vec!["PATH=/workspace:/usr/bin:/bin".to_owned()]),
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                binds: Some(programs()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let container = world.container("s");
        let options = CreateContainerOptionsBuilder::default().name(&container).build();
        world.docker.create_container(Some(options), body).await.unwrap();
        world.docker.start_container(&container, None).await.unwrap();
        let id = world.id("s");
        let files = Files { world, id };
        // One of the tools says more than is wanted, and does not end.
        let endless = "echo x >file; chmod +x file; \
                       printf '#!/bin/sh\\ndd if=/dev/zero bs=1048576 count=9 2>/dev/null\\nsleep 4714\\n' >head; \
                       chmod +x head";
        files.sh(endless).await;
        let (status, body) = files.json("path=file").await;
        assert!(status == 409 && body["message"].as_str().unwrap().contains("more than it may"), "{status} {body}");
        let look = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null; :";
        let left = files.sh(look).await;
        assert!(left.contains("sleep 100000") && !left.contains("sleep 4714"), "{left}");
    });
}

#[test]
fn what_cannot_be_started_is_named() {
    block_on(async {
        let world = World::with("no-sh", options().set("CONTAINER_READ_ONLY_ROOT", "off")).await;
        let id = world.id("s");
        assert_eq!(world.server.post(&format!("/api/internal/sessions/{id}"), json!({})).await.0, 201);
        assert_eq!(world.start(&id).await.0, 200);
        let files = Files { world, id };
        let (_, answer) = files.world.exec(&files.id, json!({"command": ["/none-such"]})).await;
        assert!(answer["stderr"].as_str().unwrap().contains("/none-such") && answer["stdout"] == "", "{answer}");
        // A program that ends like this by itself keeps its output.
        let own = json!({"command": ["sh", "-c", "echo mine; exit 126"]});
        assert_eq!(files.world.exec(&files.id, own).await.1["stdout"], "mine\n");
        files.put("file", "x").await;
        let (_, answer) = files.world.exec(&files.id, json!({"command": ["rm", "/bin/sh"]})).await;
        assert_eq!(answer["exitCode"], 0, "{answer}");
        let (read, written) = (files.json("path=file").await, files.put("file", "x").await);
        for (status, body) in [read, written] {
            let message = body["message"].as_str().unwrap();
            assert!(status == 409 && message.contains("\"sh\"") && message.contains("exit code 12"), "{status} {body}");
        }
    });
}
