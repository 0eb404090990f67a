//! Bad input: a code of section 7, never a 5xx, nothing half stored.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::app::{TestServer, block_on, start_body, v2, with};
use crate::on_both;

on_both!(malformed_envelopes_are_refused_with_a_code, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let good = v2(&run, 0);
        let wrong_types = [
            json!({"seq": "0"}),
            json!({"seq": []}),
            json!({"eventId": 7}),
            json!({"runId": {}}),
            json!({"messages": {}}),
            json!({"messages": ["text"]}),
            json!({"messages": null}),
            json!({"timezone": 3}),
            json!({"payloadVersion": "2"}),
            json!({"endSha": 1}),
            json!({"threadId": null}),
        ];
        let mut bodies: Vec<Vec<u8>> =
            wrong_types.iter().map(|fields| with(good.clone(), fields.clone()).to_string().into_bytes()).collect();
        bodies.extend([
            b"".to_vec(),
            b"{".to_vec(),
            b"[]".to_vec(),
            b"\xff\xfe".to_vec(),
            [good.to_string().as_bytes(), b"\0"].concat(),
            [good.to_string().as_bytes(), b"{}"].concat(),
            good.to_string().replace("UTC", "U\u{0}C").into_bytes(),
            [&good.to_string().into_bytes()[..20], b"\xc3\x28", &good.to_string().into_bytes()[20..]].concat(),
            vec![b'['; 200_000],
        ]);
        for body in bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
            let (status, answer) = server.event_raw(Some(&run.token), body).await;
            assert_eq!((status, &answer["code"]), (400, &json!("invalid_request")), "{shown}");
        }
        for missing in ["threadId", "threadChatId", "messages", "timezone"] {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(missing);
            let (status, answer) = server.event(&run, &body).await;
            assert_eq!(status, 400, "{missing}");
            assert!(answer["message"].as_str().unwrap().contains(missing), "{answer}");
        }
        assert!(server.events(&run).await.is_empty() && server.quarantine("t").await.is_empty());
    });
});

on_both!(strange_but_possible_values_are_set_aside_or_kept, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let kept = |fields: Value| {
            let (server, run) = (&server, &run);
            async move {
                let (status, ack) = server.event(run, &with(v2(run, 0), fields.clone())).await;
                assert_eq!(status, 202, "{fields}: {ack}");
                ack
            }
        };
        let long = "x".repeat(10_000);
        for fields in [
            json!({"seq": 1.5}),
            json!({"seq": -1}),
            json!({"seq": 9_007_199_254_740_992_i64}),
            json!({"seq": u64::MAX}),
            json!({"seq": 1e300}),
            json!({"eventId": long}),
            json!({"eventId": ""}),
            json!({"eventId": "a\u{0}b"}),
            json!({"payloadVersion": 99}),
        ] {
            let ack = kept(fields.clone()).await;
            assert_eq!(ack["reason"], "payload_version_mismatch", "{fields}");
            let sent = with(v2(&run, 0), fields);
            assert_eq!((&ack["acknowledgedEventId"], &ack["acknowledgedSeq"]), (&sent["eventId"], &sent["seq"]));
        }
        for fields in [json!({"runId": "nobody"}), json!({"runId": "a\u{0}b"}), json!({"runId": "é".repeat(5_000)})] {
            assert_eq!(kept(fields).await["reason"], "mismatch");
        }
        // NUL and surrogates inside a message are the agent's own words.
        let odd = r#"{"type":"assistant","text":"a\u0000b \ud800 \u2028"}"#;
        let body = with(v2(&run, 0), json!({"messages": "HERE"})).to_string().replace("\"HERE\"", &format!("[{odd}]"));
        assert_eq!(server.event_raw(Some(&run.token), body).await.0, 200);
        let response = server
            .http
            .get(format!("{}/api/internal/runs/{}/events", server.url, run.id))
            .header("X-Internal-Service-Key", crate::app::INTERNAL_KEY)
            .send()
            .await
            .unwrap();
        assert!(response.text().await.unwrap().contains(odd));
    });
});

#[test]
fn bytes_that_are_no_http_are_refused_by_the_library_with_an_empty_body() {
    block_on(async {
        let server = TestServer::start(crate::app::Db::Sqlite);
        let many = "x: y\r\n".repeat(97);
        for (head, status) in [
            ("GARBAGE\r\n\r\n".to_owned(), "400 Bad Request"),
            ("GET /healthz HTTP/1.1\r\nno header\r\n\r\n".to_owned(), "400 Bad Request"),
            (format!("GET /healthz HTTP/1.1\r\n{many}\r\n"), "431 Request Header Fields Too Large"),
        ] {
            let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    });
}

on_both!(an_unusable_seq_comes_back_in_the_spelling_that_was_sent, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let spellings = ["1e2", "1E2", "1.0", "1.50", "-0", "18446744073709551616", "1e400", "123456789012345678901"];
        for seq in spellings {
            let body = with(v2(&run, 0), json!({"seq": "HERE"})).to_string().replace("\"HERE\"", seq);
            let request = server.http.post(format!("{}/api/daemon-event", server.url));
            let answer = request.header("X-Daemon-Token", &run.token).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 202, "{seq}");
            let text = answer.text().await.unwrap();
            assert!(text.contains(&format!("\"acknowledgedSeq\":{seq},")), "{seq}: {text}");
            assert!(text.contains("\"reason\":\"payload_version_mismatch\""), "{text}");
        }
        // What is set aside is what was sent, letter for letter.
        let set_aside = server.quarantine("t").await;
        assert_eq!(set_aside.len(), spellings.len());
        for seq in spellings {
            let spelt = format!("\"seq\":{seq},");
            let kept = |row: &&Value| row["payloadPrefix2k"].as_str().unwrap().contains(&spelt);
            assert_eq!(set_aside.iter().filter(kept).count(), 1, "{seq}");
        }
        assert!(server.events(&run).await.is_empty());
    });
});

on_both!(an_event_id_cut_inside_a_character_is_refused_and_says_so, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for field in ["eventId", "runId", "threadId"] {
            let body = with(v2(&run, 0), json!({field: "HERE"})).to_string().replace("\"HERE\"", r#""\ud800""#);
            let (status, answer) = server.event_raw(Some(&run.token), body).await;
            assert_eq!((status, &answer["code"]), (400, &json!("invalid_request")), "{field}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains("surrogate"), "{field}: {message}");
        }
        assert!(server.events(&run).await.is_empty() && server.quarantine("t").await.is_empty());
    });
});

on_both!(internal_bodies_and_paths_are_checked, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let start = start_body("t", "c", "s");
        for fields in [
            json!({"threadId": ""}),
            json!({"threadId": "x".repeat(201)}),
            json!({"threadId": "a\u{0}b"}),
            json!({"threadChatId": 1}),
            json!({"startRequestId": null}),
            json!({"triggerSource": "cron"}),
            json!({"userId": "line\nbreak"}),
            json!({"repoFullName": "acme"}),
            json!({"previewConfig": "text"}),
            json!({"previewConfig": {"pad": "x".repeat(20_000)}}),
        ] {
            let (status, body) = server.post("/api/internal/runs", with(start.clone(), fields.clone())).await;
            assert_eq!((status, &body["code"]), (400, &json!("invalid_request")), "{fields}");
        }
        let huge = with(start.clone(), json!({"pad": "x".repeat(300_000)}));
        assert_eq!(server.post("/api/internal/runs", huge).await.1["code"], "payload_too_large");
        let config = json!({"schemaVersion": 1, "command": "npm start", "port": 3000});
        let (status, body) =
            server.post("/api/internal/runs", with(start, json!({"previewConfig": config, "unknown": 1}))).await;
        assert_eq!(status, 201, "{body}");
        let run = body["runId"].as_str().unwrap();
        assert_eq!(server.get(&format!("/api/internal/runs/{run}")).await.1["previewConfig"], config);

        for (path, status) in [
            ("/api/internal/runs/nonsense".to_owned(), 404),
            ("/api/internal/runs/01935d3e-7c00-7000-8000-000000000001".to_owned(), 404),
            (format!("/api/internal/runs/{run}/events?after=x"), 400),
            (format!("/api/internal/runs/{run}/events?after=1.5"), 400),
            ("/api/internal/flags/unknownFlag".to_owned(), 404),
            ("/api/internal/threads/t/chats/none".to_owned(), 404),
            ("/api/internal/threads/a%00b/chats/c".to_owned(), 400),
            ("/api/internal/quarantine?threadId=".to_owned(), 400),
            ("/nowhere".to_owned(), 404),
        ] {
            let (got, body) = server.get(&path).await;
            assert_eq!(got, status, "{path}: {body}");
            assert!(body["code"].is_string() && body["message"].is_string(), "{path}: {body}");
        }
        for array in [json!(["t", "c", "s2", "ui", "u", "a/b", null]), json!([false])] {
            assert_eq!(server.post("/api/internal/runs", array).await.0, 400);
        }
        // A misspelt scope must not become everybody's.
        let put = |query: &'static str| server.internal(reqwest::Method::PUT, query, Some(json!({"enabled": false})));
        assert_eq!(put("/api/internal/flags/daemonRunIdStrict?userID=bob").await.0, 400);
        assert_eq!(put("/api/internal/flags/daemonRunIdStrict?x=1").await.0, 400);
        assert_eq!(server.get("/api/internal/flags/daemonRunIdStrict").await.1["source"], "built_in");
        let process = json!({"codesandboxId": "b", "sandboxProvider": "process", "runStartSha": "a".repeat(40)});
        let (status, refused) = server.post(&format!("/api/internal/runs/{run}/bind"), process).await;
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_request")));
        let bind = json!({"codesandboxId": "b", "sandboxProvider": "docker", "runStartSha": "a".repeat(40)});
        for fields in [
            json!({"runStartSha": "HEAD"}),
            json!({"sandboxProvider": "lxc"}),
            json!({"codesandboxId": null}),
            json!({"sandboxInstanceId": "another"}),
            json!({"repoDir": ""}),
        ] {
            let (status, body) =
                server.post(&format!("/api/internal/runs/{run}/bind"), with(bind.clone(), fields)).await;
            assert_eq!((status, &body["code"]), (400, &json!("invalid_request")));
        }
    });
});

/// Sends raw bytes and reads the status line of the answer.
fn raw(server: &TestServer, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    // The server may answer and hang up before everything is sent.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 256];
    let read = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

on_both!(a_body_over_8_mib_is_413_by_length_and_by_counting, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let exactly = |bytes: usize| {
            let empty = with(v2(&run, 0), json!({"pad": ""})).to_string();
            empty.replace("\"pad\":\"\"", &format!("\"pad\":\"{}\"", "x".repeat(bytes - empty.len())))
        };
        let limit = 8 * 1024 * 1024;
        assert_eq!(server.event_raw(Some(&run.token), exactly(limit + 1)).await.1["code"], "payload_too_large");
        assert!(server.events(&run).await.is_empty());
        assert_eq!(server.event_raw(Some(&run.token), exactly(limit)).await.0, 200);
        // Refused by what it announces, before anything of it is sent.
        let announced = format!(
            "POST /api/daemon-event HTTP/1.1\r\nhost: x\r\nx-daemon-token: {}\r\ncontent-length: {}\r\n\r\n",
            run.token,
            limit + 1
        );
        assert_eq!(raw(&server, announced.as_bytes()), "HTTP/1.1 413 Payload Too Large");
        let chunk = [b"100000\r\n".to_vec(), vec![b' '; 0x10_0000], b"\r\n".to_vec()].concat();
        let mut chunked = format!(
            "POST /api/daemon-event HTTP/1.1\r\nhost: x\r\nx-daemon-token: {}\r\ntransfer-encoding: chunked\r\n\r\n",
            run.token
        )
        .into_bytes();
        for _ in 0..9 {
            chunked.extend_from_slice(&chunk);
        }
        assert_eq!(raw(&server, &chunked), "HTTP/1.1 413 Payload Too Large");
        assert_eq!(server.events(&run).await.len(), 1);
    });
});
