//! How envelopes reach the server: over a stream, or over HTTP where that is refused, oldest first and in order.
//!
//! The server sets aside for good what comes after a higher `seq`, so order is everything: each connection starts
//! again at the oldest envelope without an acknowledgement, also with those that the server may have.

mod api;
mod backoff;
mod http;
mod stream;

use std::convert::Infallible;

use tokio::time::{Instant, sleep};

pub(super) use api::{Answer, Api};
pub(super) use backoff::Backoff;
use stream::StreamEnd;

use super::options::ExecOptions;
use super::outbox::Outbox;

/// Handshakes that may fail in a row, with a server that can be reached, before HTTP is used.
const HANDSHAKES_MAX: u32 = 2;
/// Streams in a row that took envelopes and acknowledged none, before HTTP is used: it says what is wrong.
const BARREN_STREAMS_MAX: u32 = 3;

/// Sends what is in the outbox for as long as it is polled.
pub(super) async fn deliver(options: &ExecOptions, api: &Api, outbox: &Outbox) -> Infallible {
    let limits = &options.limits;
    let mut backoff = Backoff::new(options);
    let mut failed_handshakes = 0;
    let mut barren_streams = 0;
    loop {
        let ack_timeout = limits.ack_timeout * (1 << barren_streams.min(3));
        let use_http = match stream::run(api, outbox, limits, ack_timeout).await {
            StreamEnd::Unauthorized(status) => halt(outbox, status).await,
            StreamEnd::NotOffered(status) => {
                tracing::info!(status, "the server offers no stream; using HTTP");
                true
            }
            StreamEnd::EnvelopeRefused(code) => {
                // An error frame does not name its envelope. Over HTTP each has an answer of its own, which also
                // says whether it is the envelope or the token that is refused.
                tracing::warn!(code, "the server refuses an envelope on the stream; using HTTP");
                true
            }
            StreamEnd::Unreachable(why) => {
                tracing::warn!(why, "the server cannot be reached");
                false
            }
            StreamEnd::HandshakeFailed(why) => {
                failed_handshakes += 1;
                tracing::warn!(why, failed_handshakes, "the stream cannot be opened");
                failed_handshakes >= HANDSHAKES_MAX
            }
            StreamEnd::Broken { why, progress, sent } => {
                failed_handshakes = 0;
                tracing::info!(why, progress, "the stream broke");
                if progress {
                    barren_streams = 0;
                    backoff.reset();
                } else if sent {
                    barren_streams += 1;
                }
                barren_streams >= BARREN_STREAMS_MAX
            }
        };
        if use_http {
            failed_handshakes = 0;
            barren_streams = 0;
            let until = Instant::now() + limits.stream_retry;
            if let Err(status) = http::run(api, outbox, until, &mut backoff).await {
                halt(outbox, status).await;
            }
        } else {
            sleep(backoff.step()).await;
        }
    }
}

/// The token is refused: nothing more is sent, and nothing is dropped.
async fn halt(outbox: &Outbox, status: u16) -> bool {
    tracing::error!(status, held = outbox.held(), spool = %outbox.path.display(), "the server refuses the token");
    outbox.refuse(status);
    std::future::pending().await
}
