//! `GET /api/daemon/stream`: section 4 over WebSocket.

use std::time::Duration;

use actix_web::web::Bytes;
use actix_ws::Item;
use awc::ws::{CloseCode, Frame, Message};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};

use crate::app::{TestRun, TestServer, block_on, v1, v2, with};
use crate::on_both;

type Socket = actix_codec::Framed<awc::BoxedSocket, awc::ws::Codec>;

async fn connect(server: &TestServer, run: &TestRun) -> Socket {
    let client =
        awc::Client::builder().timeout(Duration::from_secs(20)).max_http_version(awc::http::Version::HTTP_11).finish();
    let url = format!("{}/api/daemon/stream", server.url);
    client.ws(url).header("X-Daemon-Token", run.token.as_str()).max_frame_size(16 << 20).connect().await.unwrap().1
}

async fn frame(socket: &mut Socket) -> Frame {
    tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("a frame comes").unwrap().unwrap()
}

async fn text(socket: &mut Socket) -> Value {
    match frame(socket).await {
        Frame::Text(bytes) => serde_json::from_slice(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn send(socket: &mut Socket, body: &Value) {
    socket.send(Message::Text(body.to_string().into())).await.unwrap();
}

on_both!(acks_come_in_order_for_pipelined_envelopes, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        assert_eq!(
            text(&mut socket).await,
            json!({"type": "hello", "runId": run.id, "lastAcceptedSeq": null, "payloadVersion": 2})
        );
        for seq in 0..200 {
            send(&mut socket, &v2(&run, seq)).await;
        }
        for seq in 0..200 {
            let ack = text(&mut socket).await;
            assert_eq!((&ack["type"], &ack["status"]), (&json!("ack"), &json!("accepted")));
            assert_eq!(
                (&ack["acknowledgedSeq"], &ack["acknowledgedEventId"]),
                (&json!(seq), &v2(&run, seq)["eventId"])
            );
        }
        assert_eq!(server.events(&run).await.len(), 200);
        drop(socket);
        let mut again = connect(&server, &run).await;
        assert_eq!(text(&mut again).await["lastAcceptedSeq"], 199);
        let (status, position) = daemon_get(&server, &run, "/api/daemon/position").await;
        assert_eq!((status, position), (200, json!({"runId": run.id, "lastAcceptedSeq": 199})));
    });
});

on_both!(bad_frames_keep_their_place_and_the_stream_goes_on, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        send(&mut socket, &v2(&run, 0)).await;
        socket.send(Message::Text("not json".into())).await.unwrap();
        send(&mut socket, &v2(&run, 0)).await;
        send(&mut socket, &with(v2(&run, 1), json!({"threadId": "another"}))).await;
        send(&mut socket, &v1(&run, "no run")).await;
        send(&mut socket, &v2(&run, 1)).await;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let frame = text(&mut socket).await;
            let what = frame["code"].as_str().or(frame["reason"].as_str()).or(frame["status"].as_str());
            seen.push(what.unwrap().to_owned());
            // A refused envelope is named where it can be.
            if frame["code"] == "binding_mismatch" {
                assert_eq!((&frame["seq"], &frame["eventId"]), (&json!(1), &v2(&run, 1)["eventId"]));
            } else if frame["type"] == "error" {
                assert_eq!(frame.get("seq"), None);
            }
        }
        let expected =
            ["accepted", "invalid_request", "duplicate_event", "binding_mismatch", "missing_run_id", "accepted"];
        assert_eq!(seen, expected);
    });
});

on_both!(an_envelope_in_fragments_is_one_envelope_and_pings_are_answered, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        let body = v2(&run, 0).to_string();
        let (first, last) = body.split_at(30);
        let part = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        socket.send(Message::Continuation(Item::FirstText(part(first)))).await.unwrap();
        socket.send(Message::Ping(part("are you there"))).await.unwrap();
        socket.send(Message::Continuation(Item::Last(part(last)))).await.unwrap();
        assert!(matches!(frame(&mut socket).await, Frame::Pong(payload) if payload == "are you there"));
        assert_eq!(text(&mut socket).await["status"], "accepted");
    });
});

on_both!(what_is_no_envelope_frame_ends_the_stream_with_a_reason, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        socket.send(Message::Binary(Bytes::from_static(b"{}"))).await.unwrap();
        let Frame::Close(Some(reason)) = frame(&mut socket).await else { panic!("no close") };
        assert_eq!(reason.code, CloseCode::Unsupported);

        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        let huge = with(v2(&run, 0), json!({"pad": "x".repeat(9 << 20)}));
        let _ = socket.send(Message::Text(huge.to_string().into())).await;
        let end = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("the stream ends");
        match end {
            Some(Ok(Frame::Close(Some(reason)))) => assert_eq!(reason.code, CloseCode::Size),
            // The server may hang up while the frame is still being sent.
            Some(Err(_)) | None => {}
            other => panic!("{other:?}"),
        }
        assert!(server.events(&run).await.is_empty());
    });
});

on_both!(a_message_that_is_too_large_in_fragments_is_too_large_all_the_same, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        send(&mut socket, &v2(&run, 0)).await;
        assert_eq!(text(&mut socket).await["status"], "accepted");
        let part = || Bytes::from(vec![b' '; 4 << 20]);
        // The third is one too many; nothing that would end the message is sent, so the server need not read on.
        for item in [Item::FirstText(part()), Item::Continue(part()), Item::Continue(Bytes::from_static(b"{"))] {
            socket.send(Message::Continuation(item)).await.unwrap();
        }
        let Frame::Close(Some(reason)) = frame(&mut socket).await else { panic!("no close") };
        assert_eq!(reason.code, CloseCode::Size);
        assert!(reason.description.unwrap().starts_with("payload_too_large"));
        assert_eq!(server.events(&run).await.len(), 1);
    });
});

on_both!(a_refused_envelope_is_named_in_its_own_spelling, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        for (seq, named) in [("1e2", "1e2"), ("18446744073709551616", "18446744073709551616"), ("[1]", "")] {
            let body = with(v2(&run, 0), json!({"threadId": "another", "seq": "HERE"}));
            socket.send(Message::Text(body.to_string().replace("\"HERE\"", seq).into())).await.unwrap();
            let Frame::Text(error) = frame(&mut socket).await else { panic!("no error") };
            let error = String::from_utf8(error.to_vec()).unwrap();
            assert_eq!(error.contains(&format!("\"seq\":{named}")), !named.is_empty(), "{error}");
            assert!(error.contains(&format!("\"eventId\":{}", v2(&run, 0)["eventId"])), "{error}");
        }
    });
});

on_both!(a_stream_needs_a_token_and_a_handshake, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        assert_eq!(daemon_get(&server, &run, "/api/daemon/stream").await.0, 400);
        let client = awc::Client::builder().timeout(Duration::from_secs(20)).finish();
        for token in [None, Some("wrong")] {
            let mut request = client.ws(format!("{}/api/daemon/stream", server.url));
            if let Some(token) = token {
                request = request.header("X-Daemon-Token", token);
            }
            let error = request.connect().await.map(|_| ()).unwrap_err();
            let awc::error::WsClientError::InvalidResponseStatus(status) = error else { panic!("{error}") };
            assert_eq!(status, 401);
        }
    });
});

on_both!(streams_end_with_a_reason_when_the_server_goes_down, |db| {
    block_on(async {
        let mut server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let mut socket = connect(&server, &run).await;
        text(&mut socket).await;
        send(&mut socket, &v2(&run, 0)).await;
        assert_eq!(text(&mut socket).await["status"], "accepted");
        let stopping = std::thread::spawn(move || server.stop());
        let Frame::Close(Some(reason)) = frame(&mut socket).await else { panic!("no close") };
        assert_eq!(reason.code, CloseCode::Restart);
        drop(socket);
        stopping.join().unwrap();
    });
});

async fn daemon_get(server: &TestServer, run: &TestRun, path: &str) -> (u16, Value) {
    let request = server.http.get(format!("{}{path}", server.url)).header("X-Daemon-Token", &run.token);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}
