//! A daemon's stream.

use std::time::Duration;

use awc::ws::{CloseCode, Frame, Message};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;

use crate::app::TestRun;

/// Longest wait for a frame: above every limit of the server.
const FRAME_WITHIN: Duration = Duration::from_secs(25);

pub struct Socket(actix_codec::Framed<awc::BoxedSocket, awc::ws::Codec>);

/// What comes on a stream.
#[derive(Debug)]
pub enum Heard {
    Frame(Value),
    Closed(CloseCode),
    Cut,
}

impl Socket {
    /// Opens it and takes the `hello`.
    pub async fn open(url: &str, run: &TestRun) -> Self {
        let client = awc::Client::builder()
            .timeout(Duration::from_secs(20))
            .max_http_version(awc::http::Version::HTTP_11)
            .finish();
        let mut tries = 0;
        let mut socket = loop {
            let request = client.ws(format!("{url}/api/daemon/stream")).header("X-Daemon-Token", run.token.as_str());
            match request.connect().await {
                Ok((_, socket)) => break Self(socket),
                // An actor that has just failed is still there.
                Err(awc::error::WsClientError::InvalidResponseStatus(status)) if status == 503 && tries < 100 => {
                    tries += 1;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let Heard::Frame(hello) = socket.hear().await else { panic!("no hello") };
        assert_eq!((hello["type"].as_str(), hello["runId"].as_str()), (Some("hello"), Some(run.id.as_str())));
        socket
    }

    pub async fn say(&mut self, envelope: &Value) {
        self.0.send(Message::Text(envelope.to_string().into())).await.unwrap();
    }

    pub async fn hear(&mut self) -> Heard {
        loop {
            match tokio::time::timeout(FRAME_WITHIN, self.0.next()).await.expect("a frame comes") {
                Some(Ok(Frame::Text(text))) => return Heard::Frame(serde_json::from_slice(&text).unwrap()),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(Frame::Close(reason))) => return Heard::Closed(reason.expect("a reason").code),
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(_)) | None => return Heard::Cut,
            }
        }
    }
}
