//! A WebSocket through the proxy: once both sides have agreed, bytes pass as they are, until one of them ends it, both
//! are silent, or the session ends (section 5, proxy).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::{Bytes, Payload};
use futures_util::{Stream as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_util::io::ReaderStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::body::{BodyEnded, Held, Limit};

/// What is read from the upstream at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// The upstream's half on its way to the client.
pub struct Tunnel {
    incoming: ReaderStream<ReadHalf<TokioIo<Upgraded>>>,
    limit: Limit,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends the client's half with this one.
    _other_half: tokio_util::sync::DropGuard,
    held: Held,
}

impl Tunnel {
    /// Keeps the slot for as long as the tunnel lives.
    pub fn keep(&mut self) {
        self.held.slot.keep();
    }

    /// Joins both halves; the client's runs on this worker until either ends.
    pub fn join(upgraded: Upgraded, payload: Payload, session_ended: &CancellationToken, held: Held) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let ended = CancellationToken::new();
        actix_web::rt::spawn(pump(payload, write, ended.clone(), session_ended.clone()));
        Self {
            incoming: ReaderStream::with_capacity(read, CHUNK_BYTES),
            limit: Limit::idle(),
            revoked: Box::pin(session_ended.clone().cancelled_owned()),
            _other_half: ended.drop_guard(),
            held,
        }
    }
}

/// Carries the client's bytes. A client that is gone ends the upstream's half too: it reads the end of its stream.
async fn pump(
    mut payload: Payload,
    mut write: WriteHalf<TokioIo<Upgraded>>,
    ended: CancellationToken,
    session_ended: CancellationToken,
) {
    let carrying = async {
        while let Some(Ok(bytes)) = payload.next().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carrying => {}
        () = ended.cancelled() => {}
        () = session_ended.cancelled() => {}
    }
    // The upstream may have hung up first.
    let _ = write.shutdown().await;
}

impl MessageBody for Tunnel {
    type Error = BodyEnded;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        let this = &mut *self;
        if this.revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyEnded::Revoked)));
        }
        match Pin::new(&mut this.incoming).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                this.limit.touch();
                Poll::Ready(Some(Ok(bytes)))
            }
            // A reset is the end of a tunnel like any other.
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(None),
            Poll::Pending => {
                let met = ready!(this.limit.poll_met(cx));
                Poll::Ready(Some(Err(met)))
            }
        }
    }
}
