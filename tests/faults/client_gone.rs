//! Clients that are gone before their answer: what they have sent is stored all the same.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::app::{Db, Options, TestRun, TestServer, block_on, v2};
use crate::remote::Remote;
use crate::socket::Socket;

/// A server and somebody who keeps it from writing.
async fn held_up() -> (TestServer, Remote, TestRun, PgConnection) {
    let options = Options::new(Db::Postgres);
    let url = options.settings.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1.clone();
    let server = TestServer::with(options);
    let remote = Remote::new(&server.url);
    let run = remote.run("t", "c", "s").await;
    (server, remote, run, PgConnection::connect(&url).await.unwrap())
}

/// Waits until somebody waits for the lock.
async fn somebody_waits(operator: &mut PgConnection) {
    for _ in 0..1_000 {
        let waiting: i64 = sqlx::query_scalar("select count(*) from pg_locks where not granted")
            .fetch_one(&mut *operator)
            .await
            .unwrap();
        if waiting > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits for the database");
}

/// Sends the whole request and waits for nothing.
fn post(server: &TestServer, run: &TestRun, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /api/daemon-event HTTP/1.1\r\nHost: localhost\r\nX-Daemon-Token: {}\r\nContent-Length: {}\r\n\r\n",
        run.token,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream
}

/// Nothing has come back yet, and nothing ever will. Every other connection is reset instead of closed.
fn hang_up(seq: usize, mut stream: TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0];
    assert!(stream.read(&mut answer).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    if seq % 2 == 1 {
        tokio::net::TcpStream::from_std(stream).unwrap().set_zero_linger().unwrap();
    }
}

async fn arrives(remote: &Remote, run: &TestRun, count: usize) {
    for _ in 0..1_000 {
        if remote.events(run).await.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seqs: Vec<_> = remote.events(run).await.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (0..count as u64).collect::<Vec<_>>());
}

/// Long enough for the server to have read what was sent, and to have seen that a client is gone.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[test]
fn requests_whose_clients_hang_up_are_carried_out() {
    block_on(async {
        let (server, remote, run, mut operator) = held_up().await;
        let mut lock = operator.begin().await.unwrap();
        lock.execute("lock table thread_run_progress in access exclusive mode").await.unwrap();
        // The first waits for the database; the others wait behind it.
        let mut gone = Vec::new();
        for seq in 0..4 {
            gone.push(post(&server, &run, &v2(&run, seq)));
            if seq == 0 {
                somebody_waits(&mut lock).await;
            }
            a_moment().await;
        }
        gone.into_iter().enumerate().for_each(|(seq, stream)| hang_up(seq, stream));
        a_moment().await;
        lock.rollback().await.unwrap();
        arrives(&remote, &run, 4).await;
    });
}

#[test]
fn frames_whose_streams_are_cut_are_carried_out() {
    block_on(async {
        let (_server, remote, run, mut operator) = held_up().await;
        let mut socket = Socket::open(&remote.url, &run).await;
        let mut lock = operator.begin().await.unwrap();
        lock.execute("lock table thread_run_progress in access exclusive mode").await.unwrap();
        socket.say(&v2(&run, 0)).await;
        somebody_waits(&mut lock).await;
        drop(socket);
        a_moment().await;
        lock.rollback().await.unwrap();
        arrives(&remote, &run, 1).await;
    });
}
