//! WebSockets that end here. The library takes a frame as large as its head says into memory before it compares it with
//! the bound; here the head decides (section 4: more than 8 MiB is refused).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::error::PayloadError;
use actix_web::web::{self, Bytes};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, dev};
use actix_ws::{MessageStream, ProtocolError, Session};
use futures_util::Stream;

use super::ApiError;
use crate::proxy::Frames;

/// Answers the handshake. A frame of more than `frame_max` bytes ends the messages with an error that
/// [`is_too_large`] knows, before its payload is read. Where it is no handshake, `invalid_request`.
pub(super) async fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    frame_max: usize,
) -> Result<(HttpResponse, Session, MessageStream), ApiError> {
    let bounded = Bounded { payload, frames: Frames::default(), frame_max: frame_max as u64, state: State::Open };
    let mut bounded: dev::Payload = dev::Payload::Stream { payload: Box::pin(bounded) };
    let refused = |error: &dyn std::fmt::Display| ApiError::invalid(format!("this is no WebSocket handshake: {error}"));
    let bounded = web::Payload::from_request(request, &mut bounded).await.map_err(|error| refused(&error))?;
    let (response, session, messages) = actix_ws::handle(request, bounded).map_err(|error| refused(&error))?;
    Ok((response, session, messages.max_frame_size(frame_max)))
}

/// What the library says of a message whose fragments are too large together: it has no kind of its own for that.
const FRAGMENTS_TOO_LARGE: &str = "Exceeded maximum continuation size";

/// Whether a message is larger than it may be, in one frame or in several.
pub(super) fn is_too_large(error: &ProtocolError) -> bool {
    match error {
        ProtocolError::Overflow => true,
        ProtocolError::Io(error) => {
            let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<PayloadError>());
            matches!(ours, Some(PayloadError::Overflow)) || error.to_string() == FRAGMENTS_TOO_LARGE
        }
        _ => false,
    }
}

enum State {
    Open,
    TooLarge,
    Ended,
}

/// The client's bytes, up to the head of a frame that is too large.
struct Bounded<S> {
    payload: S,
    frames: Frames,
    frame_max: u64,
    state: State,
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for Bounded<S> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.state {
            State::Open => {}
            State::TooLarge => {
                self.state = State::Ended;
                return Poll::Ready(Some(Err(PayloadError::Overflow)));
            }
            State::Ended => return Poll::Ready(None),
        }
        let part = ready!(Pin::new(&mut self.payload).poll_next(cx));
        if let Some(Ok(bytes)) = &part {
            self.frames.pass(bytes);
            if self.frames.largest() > self.frame_max {
                // What came with the head goes on; nothing after it is read.
                self.state = State::TooLarge;
            }
        }
        Poll::Ready(part)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    async fn read(parts: &[&[u8]]) -> (Vec<Result<usize, PayloadError>>, usize) {
        let mut left = parts.iter().map(|part| Ok(Bytes::copy_from_slice(part)));
        let payload = stream::iter(left.by_ref());
        let bounded = Bounded { payload, frames: Frames::default(), frame_max: 1000, state: State::Open };
        let seen = bounded.map(|part| part.map(|bytes| bytes.len())).collect().await;
        (seen, left.len())
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_ends_the_bytes_with_its_head() {
        let small = [0x81, 0x83, 0, 0, 0, 0, 1, 2, 3];
        for huge in [1001, 1 << 40, 1 << 62, u64::MAX] {
            let mut head = vec![0x81, 0xff];
            head.extend_from_slice(&u64::to_be_bytes(huge));
            head.extend_from_slice(&[0; 4]);
            let (seen, left) = read(&[&small, &head[..5], &head[5..], &[0; 100], &[0; 100]]).await;
            assert!(matches!(seen[..], [Ok(9), Ok(5), Ok(9), Err(PayloadError::Overflow)]), "{huge}: {seen:?}");
            assert_eq!(left, 2, "what follows is not read");
        }
        let mut largest = vec![0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0];
        largest.resize(8 + 1000, 7);
        let (seen, left) = read(&[&largest, &small]).await;
        assert!(matches!(seen[..], [Ok(1008), Ok(9)]), "{seen:?}");
        assert_eq!(left, 0);
    }

    #[test]
    fn too_large_is_known_however_it_is_said() {
        let io = |error| ProtocolError::Io(std::io::Error::other(error));
        assert!(is_too_large(&ProtocolError::Overflow));
        assert!(is_too_large(&io(PayloadError::Overflow)));
        assert!(is_too_large(&ProtocolError::Io(std::io::Error::other(FRAGMENTS_TOO_LARGE))));
        assert!(!is_too_large(&io(PayloadError::EncodingCorrupted)));
        assert!(!is_too_large(&ProtocolError::BadOpCode));
    }
}
