//! The way to a database, which a test cuts, stops or makes lossy.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// What the cable does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Relays,
    /// Takes connections and relays nothing, on the old ones neither.
    Hangs,
    /// Ends every connection at once.
    Refuses,
    /// Relays the questions and drops the answers.
    LosesAnswers,
}

/// A relay on a port of its own, in a thread of its own.
pub struct Cable {
    pub port: u16,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Cable {
    pub fn to(port: u16) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Relays);
        let (cuts, cut) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, SocketAddr::from(([127, 0, 0, 1], port)), modes, cut, stopped));
        });
        Self { port: own, mode, cuts, thread: Some((stop, thread)) }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Ends every connection that is open.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: StdListener,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    cut: watch::Receiver<u64>,
    mut stopped: oneshot::Receiver<()>,
) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            Ok((client, _)) = listener.accept() => {
                if *modes.borrow() != Mode::Refuses {
                    connections.spawn(relay(client, upstream, modes.clone(), cut.clone()));
                }
            }
        }
    }
}

async fn relay(client: TcpStream, upstream: SocketAddr, modes: watch::Receiver<Mode>, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, modes.clone(), false) => {}
        () = pass(from_server, to_client, modes, true) => {}
        _ = cut.changed() => {}
    }
}

/// Passes bytes on until one side ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>, answers: bool) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        let Ok(mode) = modes.wait_for(|mode| *mode != Mode::Hangs).await.map(|mode| *mode) else { return };
        match mode {
            Mode::Refuses => return,
            Mode::LosesAnswers if answers => {}
            _ if to.write_all(&bytes[..length]).await.is_err() => return,
            _ => {}
        }
    }
}
