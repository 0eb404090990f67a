//! What happens to sessions' containers, and which of them run.

use std::collections::HashMap;

use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, future};
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::ports::Clock as _;

use super::containers::{ContainerError, DockerContainers};
use super::{ENVIRONMENT_LABEL, SESSION_LABEL};
use crate::clock::SystemClock;

/// Events after which a container may not be what it was.
const ENDS: [&str; 3] = ["die", "destroy", "rename"];

/// How far back a stream of events begins, in seconds, in case the engine's clock is behind ours. To look at a container
/// once too often does no harm.
const BEFORE_SECONDS: i64 = 5;

impl DockerContainers {
    /// The sessions whose containers have ended, are gone or are called otherwise, as it happens. The stream ends when
    /// the engine does not answer any more.
    pub async fn ends_of_containers(&self) -> Result<BoxStream<'static, ContainerSessionId>, ContainerError> {
        let client = match self.engine.client().await {
            Ok(client) => client,
            Err(error) => return Err(self.explain("", error).await),
        };
        let filters = HashMap::from([("type", vec!["container"]), ("event", ENDS.to_vec())]);
        // The stream begins when it is first asked for something: what happens until then is told too.
        let since = (SystemClock.now().as_millis() / 1000 - BEFORE_SECONDS).to_string();
        let options = EventsOptionsBuilder::default().filters(&filters).since(&since).build();
        let events = client.events(Some(options));
        let told = events.take_while(|event| {
            if let Err(error) = event {
                tracing::debug!(%error, "the engine's stream of events broke off");
            }
            future::ready(event.is_ok())
        });
        Ok(told.filter_map(|event| future::ready(event.ok().as_ref().and_then(session))).boxed())
    }

    /// The sessions of running containers that were created by the installation of this name.
    pub async fn running_of(&self, environment: &str) -> Result<Vec<ContainerSessionId>, ContainerError> {
        let ours = format!("{ENVIRONMENT_LABEL}={environment}");
        let filters = HashMap::from([("label", vec![SESSION_LABEL, &ours]), ("status", vec!["running"])]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).build();
        let asked = async { self.engine.client().await?.list_containers(Some(options)).await };
        let found = match self.within(asked).await? {
            Ok(found) => found,
            Err(error) => return Err(self.explain("", error).await),
        };
        let names = found.into_iter().filter_map(|container| container.names?.into_iter().next());
        Ok(names.filter_map(|name| ContainerSessionId::of_container(name.trim_start_matches('/'))).collect())
    }
}

/// Whose container it was: after a `rename` the name before it counts.
fn session(event: &EventMessage) -> Option<ContainerSessionId> {
    let attributes = event.actor.as_ref()?.attributes.as_ref()?;
    let name = attributes.get("oldName").or_else(|| attributes.get("name"))?;
    ContainerSessionId::of_container(name.trim_start_matches('/'))
}
