//! A WebSocket through the proxy: once both sides have agreed, bytes pass as they are, until one of them ends it, both
//! are silent, or the session ends (section 5, proxy). Where the server goes down the client is told by a close frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use futures_util::{Stream as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_util::io::ReaderStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::body::Held;
use super::upload::Upload;
use super::watched::{BodyEnded, LastSeen, Limit, Watched};
use super::websocket_frames::Frames;

/// What is read from the upstream at once.
const CHUNK_BYTES: usize = 16 * 1024;

struct Live {
    incoming: ReaderStream<ReadHalf<TokioIo<Upgraded>>>,
    /// Ends the client's half with this one.
    _other_half: DropGuard,
    _held: Held,
}

/// The upstream's half on its way to the client.
pub struct Tunnel {
    live: Watched<Live>,
    frames: Frames,
}

impl Tunnel {
    /// Joins both halves; the client's runs on this worker until either ends. A `limit` of silence is met when both are.
    pub fn join(
        upgraded: Upgraded,
        payload: Upload,
        session_ended: &CancellationToken,
        mut held: Held,
        limit: Limit,
    ) -> Self {
        held.slot.keep();
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let ended = CancellationToken::new();
        let live = Live {
            incoming: ReaderStream::with_capacity(read, CHUNK_BYTES),
            _other_half: ended.clone().drop_guard(),
            _held: held,
        };
        let live = Watched::new(live, limit, session_ended.clone().cancelled_owned());
        actix_web::rt::spawn(pump(payload, write, ended, live.seen().clone()));
        Self { live, frames: Frames::default() }
    }
}

/// Carries the client's bytes. A client that is gone ends the upstream's half too: it reads the end of its stream.
async fn pump(mut payload: Upload, mut write: WriteHalf<TokioIo<Upgraded>>, ended: CancellationToken, seen: LastSeen) {
    let carrying = async {
        while let Some(Ok(bytes)) = payload.next().await {
            seen.touch();
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carrying => {}
        () = ended.cancelled() => {}
    }
    // The upstream may have hung up first; one that takes nothing must not keep this open.
    let _ = tokio::time::timeout(Duration::from_secs(1), write.shutdown()).await;
}

impl MessageBody for Tunnel {
    type Error = BodyEnded;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        let part = self.live.poll(cx, |live, cx| Pin::new(&mut live.incoming).poll_next(cx));
        match ready!(part) {
            // Within a frame no other one may begin: then the connection just breaks off.
            Err(BodyEnded::Stopping) if let Some(goodbye) = self.frames.goodbye() => {
                Poll::Ready(Some(Ok(Bytes::from(goodbye))))
            }
            Err(ended) => Poll::Ready(Some(Err(ended))),
            Ok(Some(Some(Ok(bytes)))) => {
                self.live.seen().touch();
                self.frames.pass(&bytes);
                Poll::Ready(Some(Ok(bytes)))
            }
            // A reset is the end of a tunnel like any other.
            Ok(Some(Some(Err(_)) | None) | None) => {
                drop(self.live.finish());
                Poll::Ready(None)
            }
        }
    }
}
