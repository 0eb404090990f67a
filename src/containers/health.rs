//! Why a preview does not answer (`CONTAINER_PREVIEW_HEALTH`): the way of a request, step by step.

use std::time::Duration;

use runwarden_actors::contract::{ContainerSessionId, PortName};
use tokio::time::timeout;

use super::Containers;
use super::error::PreviewError;
use super::relay::Unconnected;
use crate::proxy::AnswerHead;
use crate::proxy::forward::ForwardError;
use crate::proxy::upload::RequestBody;

/// Time for the head of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How a preview fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The registered port.
    pub port: Option<u16>,
    /// Status of `GET /`, where the app answered.
    pub status: Option<u16>,
    /// Why it is not healthy; for programs.
    pub reason: Option<&'static str>,
    /// The same for people.
    pub message: String,
}

impl Containers {
    /// Looks at the app of a registered port with one `GET /`.
    pub async fn health(&self, session: &ContainerSessionId, name: Option<&PortName>) -> Health {
        let Some(registered) = self.0.registry.get(session, name) else {
            return Health { port: None, ..unhealthy("not_registered", "no port is registered") };
        };
        let looked = self.look(session, registered.port).await;
        let health = looked.unwrap_or_else(|(reason, message)| unhealthy(reason, &message));
        Health { port: Some(registered.port), ..health }
    }

    async fn look(&self, session: &ContainerSessionId, port: u16) -> Result<Health, (&'static str, String)> {
        let connected = self.connect(session, port).await.map_err(|error| match error {
            Unconnected::Preview(error) => {
                let reason = match &error {
                    PreviewError::NotRunning(_) => "container_not_running",
                    PreviewError::NoAddress(_) => "container_no_address",
                    _ => "container_unavailable",
                };
                (reason, error.to_string())
            }
            Unconnected::Forward(ForwardError::ConnectTimeout) => {
                ("connect_timeout", format!("nothing at port {port} takes a connection in time"))
            }
            Unconnected::Forward(_) => {
                ("connection_refused", format!("nothing listens at port {port} of the container's address"))
            }
            Unconnected::Moved => ("container_moved", "the container was restarted just now".to_owned()),
        })?;
        let mut request = hyper::Request::new(RequestBody::empty());
        let fixed = hyper::header::HeaderValue::from_static;
        if let Ok(host) = hyper::header::HeaderValue::from_str(&connected.authority) {
            request.headers_mut().insert(hyper::header::HOST, host);
        }
        request.headers_mut().insert(hyper::header::ACCEPT, fixed("*/*"));
        request.headers_mut().insert(hyper::header::CONNECTION, fixed("close"));
        match timeout(ANSWER_WITHIN, connected.connection.send(request)).await {
            Ok(Ok((response, _))) => {
                if let Err(error) = AnswerHead::read(&response) {
                    return Err(("not_http", format!("the app's answer cannot be used: {}", error.message())));
                }
                let status = response.status().as_u16();
                let reason = (status >= 500).then_some("server_error");
                Ok(Health {
                    port: None,
                    status: Some(status),
                    reason,
                    message: format!("the app answers with {status}"),
                })
            }
            Ok(Err(_)) => Err(("not_http", "the app takes connections and does not answer in HTTP".to_owned())),
            Err(_) => {
                let seconds = ANSWER_WITHIN.as_secs();
                Err(("no_answer", format!("the app takes connections and says nothing within {seconds} s")))
            }
        }
    }
}

fn unhealthy(reason: &'static str, message: &str) -> Health {
    Health { port: None, status: None, reason: Some(reason), message: message.to_owned() }
}
